"""Files for what is too long for the memory of several processes: written by one, mapped by another.

They lie in the folder for temporary files (``TMPDIR``), which must be on a disk: in a folder of memory they would be what they shall save.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from halcyon.data.sources.failures import Unreadable, reason

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Aside:
    """A file that was put aside. Who takes its content deletes it; else it goes when the process that made it ends."""

    path: str

    @classmethod
    def make(cls) -> Aside:
        """An empty one."""
        with tempfile.NamedTemporaryFile(dir=_folder().name, delete=False) as stream:
            return cls(stream.name)

    def append(self, parts: Iterable[bytes | memoryview]) -> None:
        """Write something at its end.

        Raises:
            Unreadable: There is no room for it.
        """
        try:
            with Path(self.path).open("ab") as stream:
                stream.writelines(parts)
        except OSError as error:
            raise Unreadable(
                f"a text too long for the memory cannot be put into {self.path}: {reason(error)}; free some room there, or set TMPDIR to a "
                "folder on a larger disk"
            ) from None

    def chunks(self) -> Iterator[bytes]:
        """Its content."""
        with Path(self.path).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def take(self) -> mmap.mmap:
        """Map it into memory and delete it: it lasts as long as the mapping."""
        with Path(self.path).open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.discard()
        return content

    def discard(self) -> None:
        """Delete it."""
        Path(self.path).unlink(missing_ok=True)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """One folder for each process, removed when that ends in order."""
    return tempfile.TemporaryDirectory(prefix="halcyon-", ignore_cleanup_errors=True)
