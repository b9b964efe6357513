"""One save in the background, as process 0 leads it and as the others follow.

Neither uses device collectives, which would race with those of the step loop: they meet through the root (see `parts` and `commit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from halcyon.checkpoint.collect import delete_checkpoint, delete_orphans, finish_deletions
from halcyon.checkpoint.commit import Description, Sleep, Undecided, await_commit, commit, gather_parts, remove_parts
from halcyon.checkpoint.failures import Abandoned, StoreFailure
from halcyon.checkpoint.head import HeadKeeper
from halcyon.checkpoint.parts import Part, encode_part, part_key, write_files
from halcyon.checkpoint.retention import Retention
from halcyon.checkpoint.snapshot import Snapshot
from halcyon.checkpoint.store import Store
from halcyon.errors import Fenced
from halcyon_api.checkpoint_documents import DamagedDocument, Epoch, Head

_LONGEST_ERROR = 500


class Saver(Protocol):
    """What the checkpointer asks of its process's role."""

    def save(self, prefix: str, snapshot: Snapshot, about: Description) -> Head:
        """Bring a snapshot to a commit.

        Returns:
            HEAD, which lists it.

        Raises:
            CommitFailed, StoreFailure, DamagedDocument, Undecided: It is not committed, or nobody knows.
            Fenced: A newer epoch has the root.
            Abandoned: Told to stop.
        """
        ...

    def tidy(self) -> None:
        """Delete what the last commit made superfluous.

        Raises:
            StoreFailure, DamagedDocument: Something is left; the next one tries again.
            Fenced: A newer epoch has the root.
        """
        ...


class Follower:
    """Every process but 0: writes its part, then watches what becomes of it."""

    def __init__(self, store: Store, process: int, epoch: Epoch, writer: str, *, timeout_seconds: float, sleep: Sleep) -> None:
        self._store, self._process, self._epoch, self._writer = store, process, epoch, writer
        self._timeout_seconds, self._sleep = timeout_seconds, sleep

    def save(self, prefix: str, snapshot: Snapshot, about: Description) -> Head:
        """See `Saver`."""
        part, failure = _own_part(self._store, prefix, snapshot, self._process)
        self._store.write(part_key(prefix, self._process), encode_part(part))
        if failure is not None:
            raise failure
        return await_commit(
            self._store,
            prefix,
            self._process,
            about.process_count,
            self._epoch,
            self._writer,
            timeout_seconds=self._timeout_seconds,
            sleep=self._sleep,
        )

    def tidy(self) -> None:
        """Process 0 does that."""


class Leader:
    """Process 0: writes its part, gathers the others', commits, deletes."""

    def __init__(
        self, store: Store, keeper: HeadKeeper, *, retention: Retention, timeout_seconds: float, sleep: Sleep, clock: Callable[[], float]
    ) -> None:
        self._store, self._keeper, self._retention = store, keeper, retention
        self._timeout_seconds, self._sleep = timeout_seconds, sleep
        self._clock = clock
        self._counted_until = clock()
        self._failed: list[str] = []
        """Prefixes of failed saves that are still to be deleted."""
        self._undecided: list[str] = []
        """Prefixes whose commit may have happened, or may still arrive."""
        self._parts: list[str] = []
        """Prefixes whose part documents are still to be deleted."""
        self._orphans_deleted = False

    def save(self, prefix: str, snapshot: Snapshot, about: Description) -> Head:
        """See `Saver`."""
        try:
            self._delete_failed()
            part, failure = _own_part(self._store, prefix, snapshot, 0)
            others = gather_parts(self._store, prefix, part, about.process_count, timeout_seconds=self._timeout_seconds, sleep=self._sleep)
            if failure is not None:
                raise failure
            now = self._clock()
            up_milliseconds = round(1000 * (now - self._counted_until))
            commit(self._store, self._keeper, prefix, snapshot.leaves, others, about, self._retention, up_milliseconds)
            self._counted_until = now
        except Undecided:
            self._undecided.append(prefix)
            self._parts.append(prefix)
            _quietly(self._delete_parts)
            raise
        except (Fenced, Abandoned):
            raise  # what lies there is garbage, and the next epoch's to delete
        except Exception:
            # A newer epoch deletes what it finds of ours, so a file that is gone often means that the root is lost.
            _quietly(self._keeper.refresh)
            self._failed.append(prefix)
            _quietly(self._delete_failed)
            raise
        if about.process_count > 1:
            self._parts.append(prefix)
        return self._keeper.head

    def tidy(self) -> None:
        """See `Saver`."""
        self._delete_parts()
        # HEAD has just been changed, so no earlier change of ours can still arrive: what it does not name by now it never will.
        named = {one.path for one in self._keeper.head.committed} | set(self._keeper.head.deleting)
        self._failed += [prefix for prefix in self._undecided if prefix not in named]
        self._undecided.clear()
        self._delete_failed()
        finish_deletions(self._store, self._keeper)
        if not self._orphans_deleted:
            delete_orphans(self._store, self._keeper)
            self._orphans_deleted = True

    def _delete_failed(self) -> None:
        while self._failed:
            delete_checkpoint(self._store, self._failed[-1])
            self._failed.pop()

    def _delete_parts(self) -> None:
        while self._parts:
            remove_parts(self._store, self._parts[-1])
            self._parts.pop()


def _own_part(store: Store, prefix: str, snapshot: Snapshot, process: int) -> tuple[Part, Exception | None]:
    """Write this process's files. A failure is part of the answer, because the others must hear of it."""
    try:
        return Part(process=process, files=write_files(store, prefix, snapshot, metadata=process == 0)), None
    except Abandoned:
        raise
    except Exception as failure:
        return Part(process=process, error=str(failure)[:_LONGEST_ERROR]), failure


def _quietly(work: Callable[[], object]) -> None:
    """Tidy up after a failure, which is what will be reported. What is left the next save deletes."""
    try:
        work()
    except (StoreFailure, DamagedDocument, Abandoned):
        return
