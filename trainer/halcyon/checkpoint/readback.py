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
from halcyon_api import checkpoint_documents as documents

CHECKS_PREFIX = "checks/"
_WORKERS = 2
_MOST_DAMAGES = 20


class CheckMissing(Exception):
    """A process did not report its read-back in time; the message names the process."""


class Check(documents.Document):
    """The damage that a process found in the files that it wrote."""

    process: int
    damages: tuple[str, ...]


def read_back(
    store: Store, entry: documents.CommittedStep, files: Sequence[documents.ManifestFile], *, manifest: bool
) -> tuple[str, ...]:
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

    def check(file: documents.ManifestFile) -> str | None:
        store.forget(f"{entry.path}{documents.DATA_PREFIX}{file.path}")
        return damage_of(lambda: read_file(store, entry.path, file))

    damages: list[str | None] = [damage_of(lambda: read_manifest(store, entry))] if manifest else []
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="checkpoint-check") as pool:
        try:
            damages += pool.map(check, files)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(damage for damage in damages if damage)


def report(store: Store, prefix: str, check: Check) -> None:
    """Write a check, with its hash, for process 0."""
    bounded = check.but(damages=check.damages[:_MOST_DAMAGES])
    store.write(report_key(f"{prefix}{CHECKS_PREFIX}", check.process), encode_report(bounded))


def gather_checks(
    store: Store, prefix: str, own: Check, process_count: int, *, timeout_seconds: float, sleep: Sleep
) -> tuple[str, ...]:
    """Wait, in process 0, for the checks of the other processes.

    Returns:
        All damage of the checkpoint.

    Raises:
        CheckMissing: A process wrote no check in time.
        DamagedDocument: A check document is damaged.
        StoreFailure: The store did not answer.
    """
    checks = f"{prefix}{CHECKS_PREFIX}"
    reports = gather_reports(
        store, checks, own.process, process_count, CheckMissing, timeout_seconds=timeout_seconds, sleep=sleep
    )
    return own.damages + tuple(damage for _, data in reports for damage in decode_report(Check, data).damages)


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
    on_read_back: Callable[[documents.CommittedStep, str | None], object]
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

    def begin(self, entry: documents.CommittedStep, files: tuple[documents.ManifestFile, ...]) -> None:
        """Read this process's files of a checkpoint in a thread: neither the next save nor the end of the run waits for
        it.
        """
        self.join()  # the thread has reported its last result: process 0 marks another checkpoint only after that
        self._thread = threading.Thread(target=self._guarded, args=(entry, files), name="checkpoint-check")
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()

    def _guarded(self, entry: documents.CommittedStep, files: tuple[documents.ManifestFile, ...]) -> None:
        try:
            self._read(entry, files)
        except Abandoned:
            return
        except (StoreFailure, CheckMissing, documents.DamagedDocument) as failure:
            self.on_warning(f"the checkpoint at step {entry.step} could not be read back: {failure}")
        except Exception as failure:
            self.on_fatal(failure)

    def _read(self, entry: documents.CommittedStep, files: tuple[documents.ManifestFile, ...]) -> None:
        damages = read_back(self.store, entry, files, manifest=self.keeper is not None)
        check = Check(process=self.processes.process_index, damages=damages)
        if self.keeper is None:
            report(self.store, entry.path, check)
            return
        damages = gather_checks(
            self.store,
            entry.path,
            check,
            self.processes.process_count,
            timeout_seconds=self.timeout_seconds,
            sleep=self.sleep,
        )
        self.store.delete_prefix(f"{entry.path}{CHECKS_PREFIX}")
        if not damages:
            self.keeper.update(lambda head: with_verified(head, entry.path))
        else:
            bad = bad_step(entry, damages[0])
            if bad not in self.keeper.update(lambda head: with_damage(head, bad)).bad:
                return  # the checkpoint is being deleted, so missing files are no damage
        self.on_read_back(entry, damages[0] if damages else None)
        mark_left(self.store, self.keeper.head)
