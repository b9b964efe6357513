"""The snapshots in one pod's memory: files by their hashes, and a document for each step, per process.

A file that two steps share lies there once. Every file is checked when it is read.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from halcyon.checkpoint.memory.documents import KeptPart
from halcyon.checkpoint.parts import decode_report, encode_report, file_of
from halcyon.host.storage.files import write_file
from halcyon.host.storage.store import Pieces
from halcyon_api.checkpoint_documents import DamagedDocument, ManifestFile

STEPS_KEPT = 2
"""Newest steps of a process that are kept: the last one may not be complete on other processes."""


class Folder:
    """The folder, which only the processes of this pod write to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def parts(self) -> list[KeptPart]:
        """All parts that can be read."""
        return [part for _, part in self._documents(self._path.glob("*/*.json"))]

    def has(self, process: int, sha256: str) -> bool:
        """Whether a file is there."""
        return self.file(process, sha256).is_file()

    def file(self, process: int, sha256: str) -> Path:
        """The place of a file."""
        return self._path / str(process) / sha256

    def read(self, process: int, file: ManifestFile) -> bytes | None:
        """A file of a part. None: it is missing, or its bytes are not those that were written.

        A damaged file is deleted, because a later snapshot that needs the same bytes would not write them again.
        """
        place = self.file(process, file.sha256)
        try:
            data = place.read_bytes()
        except OSError:
            return None
        if file_of(file.path, (data,)) == file:
            return data
        place.unlink(missing_ok=True)
        return None

    def write(self, process: int, path: str, data: Pieces) -> ManifestFile:
        """Keep a file."""
        file = file_of(path, data)
        self.put(process, file.sha256, data)
        return file

    def put(self, process: int, sha256: str, data: Pieces) -> None:
        """Keep a file of this hash."""
        if not self.has(process, sha256):
            target = self.file(process, sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, data)

    def keep(self, part: KeptPart) -> None:
        """Keep a part, whose files are there, and delete what older steps alone need.

        Raises:
            ValueError: A file is missing.
        """
        if not all(self.has(part.process, file.sha256) for file in part.files):
            raise ValueError
        own = self._path / str(part.process)
        own.mkdir(parents=True, exist_ok=True)
        write_file(own / f"{part.step:012d}.json", (encode_report(part),))
        self.tidy(part.process, part.writer)

    def tidy(self, process: int, writer: str) -> None:
        """Delete what the newest steps of a process do not need."""
        own = self._path / str(process)
        # Another start may have kept a later step, which the processes did not have in common.
        newest = sorted(self._documents(own.glob("*.json")), key=lambda one: (one[1].writer == writer, one[1].step))
        needed: set[str] = set()
        for document, kept in newest[-STEPS_KEPT:]:
            needed |= {document.name, *(file.sha256 for file in kept.files)}
        for path in own.glob("*"):
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete everything."""
        shutil.rmtree(self._path, ignore_errors=True)

    @staticmethod
    def _documents(found: Iterable[Path]) -> Iterator[tuple[Path, KeptPart]]:
        for document in found:
            with suppress(OSError, DamagedDocument):
                yield document, decode_report(KeptPart, document.read_bytes())
