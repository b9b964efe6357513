"""Files of a cluster: written in the format of their suffix, deleted only if nothing is mounted below them."""

import json
import shutil
from pathlib import Path

import tomli_w
import yaml

from halcyon_devcluster.errors import DevclusterError


def write_document(path: Path, document: object) -> None:
    """Write a document atomically, as TOML, JSON (also `.conflist`) or YAML by suffix; a string is written
    unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(document, str):
        text = document
    elif path.suffix == ".toml" and isinstance(document, dict):
        text = tomli_w.dumps(document)
    elif path.suffix in (".json", ".conflist"):
        text = json.dumps(document, indent=2) + "\n"
    else:
        text = yaml.safe_dump(document, sort_keys=False)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


def mounted_below(folder: Path, mounts: str) -> list[str]:
    """Return the mount points at or below `folder` in the text of /proc/self/mounts. Pure."""
    points = (line.split()[1] for line in mounts.splitlines() if line.strip())
    return [point for point in points if Path(point).is_relative_to(folder)]


def filesystem_type(path: Path, mounts: str) -> str:
    """Return the type of the file system of an absolute path, from the text of /proc/self/mounts. Pure."""
    rows = [line.split()[1:3] for line in mounts.splitlines() if line.strip()]
    holding = [(point, kind) for point, kind in rows if path.is_relative_to(point)]
    return max(holding, key=lambda row: len(row[0]))[1] if holding else ""


def delete(path: Path) -> None:
    """Delete a file or folder, if it exists.

    Raises:
        DevclusterError: something is mounted below it; its content would be deleted too.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        if points := mounted_below(path, Path("/proc/self/mounts").read_text()):
            raise DevclusterError(f"{points[0]} is mounted inside the cluster's folder: unmount it, then try again.")
        shutil.rmtree(path)


def link_tools(folder: Path, **programs: Path) -> None:
    """Link programs into a folder that users can put on their PATH; replaces older links."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(program)


def last_line(path: Path) -> str:
    """Return the last line of a log that is not blank; empty if there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")
