"""Reads a committed checkpoint back, in the background, to check that the store holds what was written.

All processes read the checkpoint that HEAD marks as ``wanted``: each process reads the files that it wrote and whose
hashes it knows; process 0 also reads MANIFEST.json and COMMIT. As in a save they communicate only through the root:
each process writes a document below ``PREFIX/checks/``, and process 0 gathers the documents and records the result in
HEAD. The read-back runs beside the training and the next saves, with few requests at a time.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from halcyon.checkpoint.collect import mark_left
from halcyon.checkpoint.head import HeadKeeper, bad_step, with_damage, with_verified
from halcyon.checkpoint.parts import Sleep, decode_report, encode_report, gather_reports, report_key
from halcyon.checkpoint.processes import Processes
from halcyon.checkpoint.verify import damage_of, read_file, read_manifest
from halcyon.host.storage.failures import Abandoned, StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import DATA_PREFIX, CommittedStep, DamagedDocument, Document, ManifestFile

CHECKS_PREFIX = "checks/"
_WORKERS = 2
_MOST_DAMAGES = 20


class CheckMissing(Exception):
    """A process did not report its read-back in time; the message names the process."""


class Check(Document):
    """The damage that a process found in the files that it wrote."""

    process: int
    damages: tuple[str, ...]


def read_back(store: Store, entry: CommittedStep, files: Sequence[ManifestFile], *, manifest: bool) -> tuple[str, ...]:
    """Read and check files of a checkpoint, without the page cache of this machine.

    Args:
        store: The root.
        entry: The checkpoint.
        files: The files to read.
        manifest: Whether to check MANIFEST.json and COMMIT too.

    Returns:
        The damage, one sentence for each fault.

    Raises:
        StoreFailure: The store did not answer.
    """

    def check(file: ManifestFile) -> str | None:
        store.forget(f"{entry.path}{DATA_PREFIX}{file.path}")
        return damage_of(lambda: read_file(store, entry.path, file))

    damages: list[str | None] = [damage_of(lambda: read_manifest(store, entry))] if manifest else []
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="checkpoint-check") as pool:
        try:
            damages += pool.map(check, files)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(damage for damage in damages if damage)


@dataclass
class ReadBackWorker:
    """Reads back this process's files of a checkpoint."""

    store: Store
    keeper: HeadKeeper | None
    """Keeper of HEAD on process 0; None on the others."""
    processes: Processes
    timeout_seconds: float
    """Longest wait of process 0 for the checks of the others."""
    sleep: Sleep
    """Waits this number of seconds, or raises `Abandoned`."""
    on_read_back: Callable[[CommittedStep, str | None], object]
    """Called on process 0 with the checkpoint and its damage (None: intact), after HEAD records the result."""
    on_warning: Callable[[str], object]
    """Called with the reason why a checkpoint could not be read back."""
    on_fatal: Callable[[Exception], object]
    """Called with an error that must end the training: a newer epoch has the root, or an unexpected error."""
    _thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being read."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, entry: CommittedStep, files: tuple[ManifestFile, ...]) -> None:
        """Read this process's files of a checkpoint in a thread: neither the next save nor the end of the run waits for
        it.
        """
        self.join()  # the thread has reported its last result: process 0 marks another checkpoint only after that
        self._thread = threading.Thread(target=self._read, args=(entry, files), name="checkpoint-check")
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()

    def _read(self, entry: CommittedStep, files: tuple[ManifestFile, ...]) -> None:
        try:
            damages = read_back(self.store, entry, files, manifest=self.keeper is not None)
            process, checks = self.processes.process_index, f"{entry.path}{CHECKS_PREFIX}"
            if self.keeper is None:
                check = Check(process=process, damages=damages[:_MOST_DAMAGES])
                self.store.write(report_key(checks, process), encode_report(check))
                return
            for _, data in gather_reports(
                self.store,
                checks,
                process,
                self.processes.process_count,
                CheckMissing,
                timeout_seconds=self.timeout_seconds,
                sleep=self.sleep,
            ):
                damages += decode_report(Check, data).damages
            self.store.delete_prefix(checks)
            if not damages:
                self.keeper.update(lambda head: with_verified(head, entry.path))
            else:
                bad = bad_step(entry, damages[0])
                if bad not in self.keeper.update(lambda head: with_damage(head, bad)).bad:
                    return  # the checkpoint is being deleted, so missing files are no damage
            self.on_read_back(entry, damages[0] if damages else None)
            mark_left(self.store, self.keeper.head)
        except Abandoned:
            return
        except (StoreFailure, CheckMissing, DamagedDocument) as failure:
            self.on_warning(f"the checkpoint at step {entry.step} could not be read back: {failure}")
        except Exception as failure:
            self.on_fatal(failure)
