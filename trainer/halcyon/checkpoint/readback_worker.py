"""The thread that reads committed checkpoints back (see `readback`) and tells what it found, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from halcyon.checkpoint.commit import Sleep
from halcyon.checkpoint.head import HeadKeeper, with_failed, with_passed
from halcyon.checkpoint.readback import Check, Unanswered, gather_checks, read_back, remove_checks, report
from halcyon.checkpoint.world import World
from halcyon.storage.failures import Abandoned, StoreFailure
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import BadStep, CommittedStep, DamagedDocument, ManifestFile


class ReadBackWorker:
    """One process's part in reading back.

    Args:
        store: The root.
        keeper: Of HEAD; None on all processes but 0.
        world: The processes.
        timeout_seconds: How long process 0 waits for what the others found.
        sleep: Waits, or raises `Abandoned`.
        on_read_back: On process 0, is told a checkpoint, once HEAD knows that it is whole, or bad, and why.
        on_warning: Is told why nothing is known about a checkpoint.
        on_fatal: Is told what must end the training: a newer epoch has the root, or something nobody expected.
    """

    def __init__(
        self,
        store: Store,
        keeper: HeadKeeper | None,
        world: World,
        *,
        timeout_seconds: float,
        sleep: Sleep,
        on_read_back: Callable[[CommittedStep, str | None], None],
        on_warning: Callable[[str], None],
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._store, self._keeper, self._world = store, keeper, world
        self._timeout_seconds, self._sleep = timeout_seconds, sleep
        self._on_read_back, self._on_warning, self._on_fatal = on_read_back, on_warning, on_fatal
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being read."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, entry: CommittedStep, files: tuple[ManifestFile, ...]) -> None:
        """Read what this process wrote of a checkpoint, in a thread: neither the next save nor the end of the run waits for it."""
        self.join()  # has told what it found already: process 0 wants no other before it knows
        self._thread = threading.Thread(target=lambda: self._guarded(lambda: self._read(entry, files), entry), name="checkpoint-check")
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()

    def _guarded(self, work: Callable[[], None], entry: CommittedStep) -> None:
        try:
            work()
        except Abandoned:
            return
        except (StoreFailure, Unanswered, DamagedDocument) as failure:
            self._on_warning(f"the checkpoint at step {entry.step} could not be read back: {failure}")
        except Exception as failure:
            self._on_fatal(failure)

    def _read(self, entry: CommittedStep, files: tuple[ManifestFile, ...]) -> None:
        damages = read_back(self._store, entry, files, manifest=self._keeper is not None)
        check = Check(process=self._world.process_index, damages=damages)
        if self._keeper is None:
            report(self._store, entry.path, check)
            return
        found = gather_checks(
            self._store, entry.path, check, self._world.process_count, timeout_seconds=self._timeout_seconds, sleep=self._sleep
        )
        remove_checks(self._store, entry.path)
        if not found:
            self._keeper.update(lambda head: with_passed(head, entry.path))
        else:
            bad = BadStep(path=entry.path, step=entry.step, reason=found[0][:1024])
            if bad not in self._keeper.update(lambda head: with_failed(head, bad)).bad:
                return  # it is being deleted, so nothing is known about it
        self._on_read_back(entry, found[0] if found else None)
