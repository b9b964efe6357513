"""Files that rows name, such as those of sounds and images: in bytes, or by a path beside the row's file."""

import posixpath
from typing import Any

from halcyon.data.sources import Access
from halcyon.data.sources.files import fetch_file


class BadFile(ValueError):
    """A file is nothing that a model can hear or see: what is wrong, and the fix."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def named(value: Any) -> bytes | str:
    """The bytes of a file, or its path, from a field of a row: either, or Hugging Face's ``{bytes, path}``.

    Raises:
        BadFile: It is neither.
    """
    if isinstance(value, dict):
        found: dict[Any, Any] = value
        value = found.get("path") if found.get("bytes") is None else found["bytes"]
    if isinstance(value, bytes) or (isinstance(value, str) and "\0" not in value):
        return value
    raise BadFile("is neither a path nor bytes", "name its file in the row")


def content(value: Any, beside: str, access: Access | None, most_bytes: int) -> bytes:
    """The bytes of a file that a row names.

    Args:
        value: See `named`.
        beside: The row's file; a path is below its folder.
        access: How the file is read. None: no path is read.
        most_bytes: Its largest size.

    Raises:
        BadFile: The row names no file, or it cannot be read.
    """
    given = named(value)
    if isinstance(given, bytes):
        return given
    path = posixpath.normpath(given)
    if access is None:
        raise BadFile("is given by its name alone", "give its content, as in data:image/png;base64,...")
    if "://" in given or path.startswith(("/", "../")) or path in (".", ".."):
        raise BadFile("is not below the folder of its row's file", "give a path below it, without ..")
    try:
        return fetch_file(posixpath.join(posixpath.dirname(beside), path), access, most_bytes=most_bytes)
    except (OSError, ValueError) as error:
        raise BadFile(f"cannot be read ({error})", "put it there, or leave the row out") from None


def shown(value: Any) -> str:
    """The path that a row names, for a message, after a space; empty: it names none."""
    path = value.get("path") if isinstance(value, dict) else value
    return f" {path[:200]!r}" if isinstance(path, str) else ""
