"""Prepare a folder of installed packages for the image: delete files that no running program reads, and compile the
others.

It deletes the packages' own test suites, C headers and static libraries. Byte code is written with an unchecked hash,
so Python never compares it with its source: this saves a file access per import, and it stays valid if an image builder
changes the time of a file. Usage: `python finish.py FOLDER`.
"""

import compileall
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

TEST_FOLDERS = ("test", "tests")
UNUSED_SUFFIXES = (".a", ".c", ".cc", ".cpp", ".h", ".hpp", ".lib", ".pxd", ".pyx")


def unused(folder: Path) -> Iterator[Path]:
    """Yield test folders (below a package, never a top-level package called `tests`) and C and C++ files."""
    for parent, folders, files in os.walk(folder):
        inside_package = Path(parent) != folder and ("__init__.py" in files or Path(parent).parent != folder)
        for name in [name for name in folders if inside_package and name in TEST_FOLDERS]:
            folders.remove(name)
            yield Path(parent) / name
        yield from (Path(parent) / name for name in files if name.endswith(UNUSED_SUFFIXES))


def main(folder: Path) -> None:
    """Delete unused files, compile the others, and print the size."""
    for path in list(unused(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not compileall.compile_dir(
        folder, quiet=1, force=True, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    ):
        sys.stderr.write(f"{folder}: some files could not be compiled; they will be slower to import\n")
    size_bytes = sum(path.lstat().st_size for path in folder.rglob("*"))
    sys.stdout.write(f"{folder}: {size_bytes / 1e6:.0f} MB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
