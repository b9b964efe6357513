"""Prepare a Python base image to run programs only: part of the first layer of both images.

It deletes the installers, because a running container installs nothing. It compiles the standard library, because a
non-root user on a read-only file system cannot write `__pycache__`, and slim base images have none. It gives the user a
name, which `getpass` and shells need. All `.py` files stay, because the trainer's `stdlib` data source reads them. It
runs with the base image's own Python and uses only the standard library.
"""

import compileall
import os
import shutil
import sysconfig
from pathlib import Path
from py_compile import PycInvalidationMode

USER_ID = 65532
CACHE = Path("/var/cache/halcyon")


def remove_installers(standard_library: Path, site_packages: Path, scripts: Path) -> None:
    """Delete pip, setuptools and the wheels that `ensurepip` and `venv` install."""
    for folder in (site_packages, Path("/usr/lib/python3/dist-packages")):
        for name in ("pip", "setuptools", "wheel", "pkg_resources"):
            for path in [folder / name, *folder.glob(f"{name}-*.dist-info")]:
                shutil.rmtree(path, ignore_errors=True)
    for path in [*scripts.glob("pip*"), *(standard_library / "ensurepip").glob("_bundled/*.whl")]:
        path.unlink()
    shutil.rmtree("/usr/share/python-wheels", ignore_errors=True)


def compile_standard_library(standard_library: Path) -> None:
    """Write missing byte code, with an unchecked hash, so that Python never compares it with its source."""
    compileall.compile_dir(
        standard_library,
        quiet=2,  # lib2to3 and test data contain files that cannot be compiled
        workers=0,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


def add_user() -> None:
    """Name the numeric user of the images, and give it the folder CACHE, at which a volume can be mounted."""
    for file, line in (
        ("/etc/passwd", f"halcyon:x:{USER_ID}:{USER_ID}:Halcyon:/tmp:/usr/sbin/nologin\n"),
        ("/etc/group", f"halcyon:x:{USER_ID}:\n"),
    ):
        with Path(file).open("a") as sink:
            sink.write(line)
    CACHE.mkdir(parents=True, exist_ok=True)
    os.chown(CACHE, USER_ID, USER_ID)


def main() -> None:
    """Prepare the image in which this program runs."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    remove_installers(standard_library, Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("scripts")))
    compile_standard_library(standard_library)
    add_user()


if __name__ == "__main__":
    main()
