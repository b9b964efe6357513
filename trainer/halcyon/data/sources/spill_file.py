"""Temporary files for documents that are too long for the memory of several processes: one process writes them,
another maps them.

They are in the folder for temporary files (``TMPDIR``), which must be on disk: in a memory file system they would use
the memory that they should save.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from halcyon.data.sources.failures import Unreadable, reason


@dataclass(frozen=True)
class SpillFile:
    """A temporary file. `take` deletes it; else it is deleted when the process that made it exits normally."""

    path: str

    @classmethod
    def make(cls) -> SpillFile:
        """Make an empty file."""
        with tempfile.NamedTemporaryFile(dir=_folder().name, delete=False) as stream:
            return cls(stream.name)

    def append(self, parts: Iterable[bytes | memoryview]) -> None:
        """Append parts to the file.

        Raises:
            Unreadable: The file cannot be written, for example because the disk is full.
        """
        try:
            with Path(self.path).open("ab") as stream:
                stream.writelines(parts)
        except OSError as error:
            raise Unreadable(
                f"a text too long for memory cannot be written to {self.path}: {reason(error)}; free some space there, "
                "or set TMPDIR to a folder on a larger disk"
            ) from None

    def take(self) -> mmap.mmap:
        """Map the file into memory and delete it; its content stays as long as the mapping."""
        with Path(self.path).open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        Path(self.path).unlink(missing_ok=True)
        return content


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """One folder per process, removed when the process exits normally."""
    return tempfile.TemporaryDirectory(prefix="halcyon-", ignore_cleanup_errors=True)
