"""Write the metadata of an installed distribution, so that programs in the image can read their version.

The packages are copied, not installed, because a layer of plain files is made in a second. Usage: `metadata.py
PYPROJECT FOLDER`.
"""

import sys
import tomllib
from pathlib import Path


def main(pyproject: Path, folder: Path) -> None:
    """Write `NAME-VERSION.dist-info/METADATA` into a folder."""
    project = tomllib.loads(pyproject.read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
