"""One save in the background: the role of process 0 (`Leader`) and of the other processes (`Follower`).

Neither uses device collectives, which would race with those of the step loop: they communicate through the root (see
`parts` and `commit`). The other processes poll the root: if HEAD names the prefix, it is committed; if their own part
is deleted and HEAD does not name the prefix, the save failed.

A process that finds no space left deletes its files and reports it in its part. Process 0 waits for all parts, deletes
the data and one checkpoint that may be deleted early (see `retention`), writes a mark below the prefix of a second try,
and deletes the first try. The others see that their part is deleted, find the mark, and write once more.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from halcyon.checkpoint import parts
from halcyon.checkpoint.collect import delete_checkpoint, delete_orphans, finish_deletions
from halcyon.checkpoint.commit import CommitFailed, Undecided, commit, gather_parts
from halcyon.checkpoint.head import HeadKeeper, check_ours
from halcyon.checkpoint.retention import (
    Retention,
    delete_programs,
    dispensable,
    is_tight,
    with_early_deletion,
)
from halcyon.checkpoint.snapshot import Snapshot
from halcyon.host.errors import Fenced
from halcyon.host.storage.failures import Abandoned, StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    DATA_PREFIX,
    HEAD_KEY,
    DamagedDocument,
    Epoch,
    Head,
    Manifest,
    ManifestFile,
    decode_head,
)

_LONGEST_ERROR = 500
_PAUSE_SECONDS = 0.2
_REQUESTS_A_SECOND = 500
"""Approximate rate of all processes that wait for a commit together: HEAD is one object, and a store limits the rate of
one object.
"""


class _TryAgain(Exception):
    """Process 0 made room, and all processes must write the save once more."""


@dataclass
class Follower:
    """Every process except process 0: writes its part, then waits for the commit."""

    store: Store
    process: int
    epoch: Epoch
    writer: str
    timeout_seconds: float
    sleep: parts.Sleep
    written: tuple[ManifestFile, ...] = ()
    """The files that this process wrote in the last save that it finished."""

    def save(self, prefix: str, snapshot: Snapshot, about: Manifest) -> Head:
        """See `Leader`."""
        try:
            return self._write(prefix, snapshot, about)
        except _TryAgain:
            return self._write(parts.second_prefix(prefix), snapshot, about)

    def _write(self, prefix: str, snapshot: Snapshot, about: Manifest) -> Head:
        part, failure = _own_part(self.store, prefix, snapshot, self.process, snapshot.size_bytes)
        part, failure = self._deliver(prefix, snapshot, part, failure)
        self.written = part.files
        if failure is not None and not part.is_full:
            raise failure
        try:
            return self._await_commit(prefix, about.process_count)
        except CommitFailed as given_up:
            raise failure or given_up from None

    def _await_commit(self, prefix: str, processes: int) -> Head:
        """Wait until process 0 has committed `prefix` or given it up.

        Returns:
            HEAD, which lists the prefix.

        Raises:
            CommitFailed: Process 0 gave up the checkpoint, or did not commit in time.
            _TryAgain: The save must be written once more.
            Fenced: A newer epoch has the root.
        """
        deadline = time.monotonic() + self.timeout_seconds
        # The more processes there are, the less often each polls, with two requests each time.
        longest = max(parts.LONGEST_PAUSE_SECONDS, 2 * processes / _REQUESTS_A_SECOND)
        pause = max(parts.FIRST_PAUSE_SECONDS, longest / 32)
        while True:
            # The part is read before HEAD, because process 0 changes HEAD first and then deletes the parts.
            given_up = self.store.read(parts.report_key(f"{prefix}{parts.PARTS_PREFIX}", self.process)).data is None
            with suppress(DamagedDocument):
                head = decode_head(self.store.read(HEAD_KEY).data or b"")
                if any(
                    entry.path == prefix
                    for entry in check_ours(head, self.epoch, self.writer, self.store.root).committed
                ):
                    return head
            if given_up:
                if self.store.read(f"{parts.second_prefix(prefix)}{parts.AGAIN_KEY}").data is not None:
                    raise _TryAgain
                raise CommitFailed("process 0 gave up the checkpoint; its log says why")
            if time.monotonic() >= deadline:
                raise CommitFailed(f"process 0 did not commit within {self.timeout_seconds:g} s")
            self.sleep(pause)
            pause = min(2 * pause, longest)

    def _deliver(
        self, prefix: str, snapshot: Snapshot, part: parts.Part, failure: Exception | None
    ) -> tuple[parts.Part, Exception | None]:
        """Write the part document.

        A full disk has room for it again when this or another process has deleted its files.
        """
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            try:
                self.store.write(
                    parts.report_key(f"{prefix}{parts.PARTS_PREFIX}", self.process), parts.encode_report(part)
                )
            except StoreFailure as refusal:
                if not refusal.is_full or time.monotonic() >= deadline:
                    raise
                if failure is None:
                    part, failure = _full_part(self.store, prefix, snapshot, self.process, refusal), refusal
                else:
                    self.sleep(_PAUSE_SECONDS)
            else:
                return part, failure

    def tidy(self) -> None:
        """Do nothing: process 0 deletes."""


@dataclass
class Leader:
    """Process 0: writes its part, gathers the parts of the others, commits, deletes."""

    store: Store
    keeper: HeadKeeper
    retention: Retention
    timeout_seconds: float
    sleep: parts.Sleep
    warn: Callable[[str], object]
    read_back_every: Callable[[], int]
    segments: Callable[[int], dict[str, str] | None]
    """The files of the history with all rows so far, for the link; None: the store did not take them in time."""
    written: tuple[ManifestFile, ...] = ()
    """The files that this process wrote in the last save that it finished."""
    _counted_until: float = field(default_factory=time.monotonic)
    _failed: list[str] = field(default_factory=list)
    """Prefixes of failed saves that are still to be deleted."""
    _undecided: list[str] = field(default_factory=list)
    """Prefixes whose commit may have succeeded, or may still arrive."""
    _parts: list[str] = field(default_factory=list)
    """Prefixes whose part documents are still to be deleted."""
    _orphans_deleted: bool = False

    def save(self, prefix: str, snapshot: Snapshot, about: Manifest) -> Head:
        """Write a snapshot and wait until it is committed.

        Args:
            prefix: Prefix of the checkpoint.
            snapshot: The shards of this process.
            about: The manifest without arrays, files and versions.

        Returns:
            HEAD, which lists the checkpoint.

        Raises:
            CommitFailed, StoreFailure, DamagedDocument: The checkpoint is not committed.
            Undecided: It is unknown whether the checkpoint is committed.
            Fenced: A newer epoch has the root.
            Abandoned: The work was stopped.
        """
        with self._cleaning(prefix):
            self._delete_failed()
            made_room = is_tight(self.store, snapshot.state_bytes) and self._make_room(snapshot.state_bytes)
            try:
                return self._write(prefix, snapshot, about)
            except (StoreFailure, CommitFailed) as failure:
                if (
                    not failure.is_full
                    or made_room
                    or not self._prepare_second_try(prefix, about.process_count, snapshot.state_bytes)
                ):
                    raise
        with self._cleaning(parts.second_prefix(prefix)):
            return self._write(parts.second_prefix(prefix), snapshot, about)

    def _write(self, prefix: str, snapshot: Snapshot, about: Manifest) -> Head:
        part, failure = _own_part(self.store, prefix, snapshot, 0, snapshot.state_bytes)
        others = gather_parts(
            self.store, prefix, part, about.process_count, timeout_seconds=self.timeout_seconds, sleep=self.sleep
        )
        if failure is not None:
            raise failure
        self.written = part.files
        about = about.but(leaves=snapshot.leaves, files=others)
        if about.evidence is not None:
            about = about.but(evidence=about.evidence.but(segments=self.segments(about.step)))
        now = time.monotonic()
        up_milliseconds = round(1000 * (now - self._counted_until))
        commit(self.store, self.keeper, prefix, about, self.retention, up_milliseconds, self.read_back_every())
        self._counted_until = now
        if about.process_count > 1:
            self._parts.append(prefix)
        return self.keeper.head

    @contextmanager
    def _cleaning(self, prefix: str) -> Iterator[None]:
        """Delete the files of a failed save, unless it may have been committed."""
        try:
            yield
        except Undecided:
            self._undecided.append(prefix)
            self._parts.append(prefix)
            _ignoring_failures(self._delete_parts)
            raise
        except (Fenced, Abandoned):
            raise  # the next epoch deletes the files
        except Exception:
            # A newer epoch deletes our files, so a missing file often means that this process has lost the root.
            _ignoring_failures(self.keeper.refresh)
            self._failed.append(prefix)
            _ignoring_failures(self._delete_failed)
            raise

    def _make_room(self, needed_bytes: int) -> bool:
        """Delete compiled programs and, if that is not enough, one checkpoint that may be deleted early.

        Returns:
            Whether something was deleted.

        Raises:
            Fenced, StoreFailure, DamagedDocument: See `HeadKeeper.update`.
        """
        freed = delete_programs(self.store) > 0
        if freed:
            self.warn(
                f"the compiled programs in {self.store.root} were deleted, so a restart compiles again: a checkpoint "
                "needs the space"
            )
            if not is_tight(self.store, needed_bytes):
                return True
        entry = dispensable(self.keeper.refresh(), self.retention)
        if self.store.folder is None or entry is None:
            return freed
        self.keeper.update(lambda head: with_early_deletion(head, self.retention))
        finish_deletions(self.store, self.keeper)
        self.warn(
            f"the checkpoint at step {entry.step} was deleted early: {self.store.root} has no room for it beside a "
            "new one"
        )
        return True

    def _prepare_second_try(self, prefix: str, process_count: int, needed_bytes: int) -> bool:
        """Make room and write the mark for the other processes, which read it when their parts are deleted.

        False if this failed.
        """
        mark = f"{parts.second_prefix(prefix)}{parts.AGAIN_KEY}"
        try:
            self.store.delete_prefix(f"{prefix}{DATA_PREFIX}")
            if not self._make_room(needed_bytes):
                return False
            if process_count > 1:
                self.store.write(mark, b"")
            delete_checkpoint(self.store, prefix)
        except (StoreFailure, DamagedDocument):
            _ignoring_failures(lambda: self.store.delete(mark))
            return False
        return True

    def tidy(self) -> None:
        """Delete everything that is no longer needed after the last commit.

        Raises:
            StoreFailure, DamagedDocument: A deletion failed; the next call tries again.
            Fenced: A newer epoch has the root.
        """
        self._delete_parts()
        # HEAD has just been changed, so no earlier change of ours can still arrive: a prefix that HEAD does not name
        # now is not committed.
        named = {entry.path for entry in self.keeper.head.committed} | set(self.keeper.head.deleting)
        self._failed += [prefix for prefix in self._undecided if prefix not in named]
        self._undecided.clear()
        self._delete_failed()
        finish_deletions(self.store, self.keeper)
        if not self._orphans_deleted:
            delete_orphans(self.store, self.keeper)
            self._orphans_deleted = True

    def _delete_failed(self) -> None:
        while self._failed:
            delete_checkpoint(self.store, self._failed[-1])
            self._failed.pop()

    def _delete_parts(self) -> None:
        while self._parts:
            self.store.delete_prefix(f"{self._parts[-1]}{parts.PARTS_PREFIX}")
            self._parts.pop()


def _own_part(
    store: Store, prefix: str, snapshot: Snapshot, process: int, needed_bytes: int
) -> tuple[parts.Part, Exception | None]:
    """Write this process's files. A failure is returned, not raised, because the part must report it to process 0."""
    try:
        free = store.free_bytes()
        if free is not None and free < needed_bytes:
            raise StoreFailure("RESOURCE_EXHAUSTED", f"No space left: {free} bytes are free, {needed_bytes} are needed")
        return parts.Part(process=process, files=parts.write_files(store, prefix, snapshot)), None
    except Abandoned:
        raise
    except Exception as failure:
        if isinstance(failure, StoreFailure) and failure.is_full:
            return _full_part(store, prefix, snapshot, process, failure), failure
        return parts.Part(process=process, error=str(failure)[:_LONGEST_ERROR]), failure


def _full_part(store: Store, prefix: str, snapshot: Snapshot, process: int, failure: StoreFailure) -> parts.Part:
    """Delete the files of a process that found the disk full, which makes room for the others, and return its part."""
    _ignoring_failures(lambda: parts.remove_files(store, prefix, snapshot))
    return parts.Part(process=process, error=str(failure)[:_LONGEST_ERROR], is_full=True)


def _ignoring_failures(work: Callable[[], object]) -> None:
    """Run `work` and ignore its failure, because the failure of the save is reported.

    The next save deletes the remaining files.
    """
    try:
        work()
    except (StoreFailure, DamagedDocument, Abandoned):
        return
