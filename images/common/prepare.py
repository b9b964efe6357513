"""Turn a Python base image into one that only runs programs: the first layer of both images.

Installers go (a running container has nothing to install), the standard library is compiled (a non-root user on a read-only file system
can write no `__pycache__`, and slim base images come without), and the user gets a name, which `getpass` and shells like to know. Every
`.py` file stays: the trainer's `stdlib` data source reads them. Run by the base image's own Python, of which it uses the standard
library alone.
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
    """Delete pip, setuptools and the wheels from which `ensurepip` and `venv` would install them."""
    for folder in (site_packages, Path("/usr/lib/python3/dist-packages")):
        for name in ("pip", "setuptools", "wheel", "pkg_resources"):
            for path in [folder / name, *folder.glob(f"{name}-*.dist-info")]:
                shutil.rmtree(path, ignore_errors=True)
    for path in [*scripts.glob("pip*"), *(standard_library / "ensurepip").glob("_bundled/*.whl")]:
        path.unlink()
    shutil.rmtree("/usr/share/python-wheels", ignore_errors=True)


def compile_standard_library(standard_library: Path) -> None:
    """Write the byte code that is not there, in a form that is never compared with its source again."""
    compileall.compile_dir(
        standard_library,
        quiet=2,  # lib2to3 and other test data hold files that are not to be compiled
        workers=0,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


def add_user() -> None:
    """Name the numeric user that the images run as, and give it the one folder that it may be mounted a volume at."""
    for file, line in (
        ("/etc/passwd", f"halcyon:x:{USER_ID}:{USER_ID}:Halcyon:/tmp:/usr/sbin/nologin\n"),
        ("/etc/group", f"halcyon:x:{USER_ID}:\n"),
    ):
        with Path(file).open("a") as sink:
            sink.write(line)
    CACHE.mkdir(parents=True, exist_ok=True)
    os.chown(CACHE, USER_ID, USER_ID)


def main() -> None:
    """Prepare the image that this runs in."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    remove_installers(standard_library, Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("scripts")))
    compile_standard_library(standard_library)
    add_user()


if __name__ == "__main__":
    main()
