"""Room for a save on a disk that may be too small.

Before process 0 writes anything it compares what is free with what the whole state needs, the others with what they write themselves: all
of them ask the same file system, and a part that does not fit need not be begun. Where it is tight, or where the disk turns out to be full
in the middle of a save, the compiled programs that lie in the root go first, because a restart can compile again. Where that is not enough,
one checkpoint may go early: the oldest that nobody asked to keep for good, and never one of the two newest. Of an object store nothing is
known beforehand and nothing is deleted early.
"""

from __future__ import annotations

from halcyon.checkpoint.retention import Retention, guarded
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, Head

PROGRAMS_PREFIX = "compilation/"
"""Where compiled programs lie in a root."""
MARGIN = 1.2
"""Where less than this times a save's size is free, room is made first: others write to the disk too."""
FEWEST = 2
"""So many of the newest stay whatever happens."""


def is_tight(store: Store, needed_bytes: int) -> bool:
    """Whether so little is free that a save may not fit."""
    free = store.free_bytes()
    return free is not None and free < MARGIN * needed_bytes


def expect_room(store: Store, needed_bytes: int) -> None:
    """See that a save of this size can fit at all.

    Raises:
        StoreFailure: It cannot.
    """
    free = store.free_bytes()
    if free is not None and free < needed_bytes:
        raise StoreFailure("RESOURCE_EXHAUSTED", f"No space left: {free} bytes are free, {needed_bytes} are needed")


def delete_programs(store: Store) -> int:
    """Delete the compiled programs of a root of files. Returns how many there were; none where the root is an object store.

    Raises:
        StoreFailure: The root does not answer.
    """
    keys = store.list(PROGRAMS_PREFIX) if store.folder is not None else []
    if keys:
        store.delete_prefix(PROGRAMS_PREFIX)
    return len(keys)


def dispensable(head: Head, retention: Retention) -> CommittedStep | None:
    """The checkpoint that goes first where there is no room for a new one; None where none may go."""
    kept = guarded(head.committed) | set(head.pinned)
    for entry in reversed(head.committed[FEWEST:]):
        if entry.path not in kept and not retention.is_permanent(entry.step):
            return entry
    return None


def with_room(head: Head, retention: Retention) -> Head:
    """HEAD after the deletion of that one began."""
    entry = dispensable(head, retention)
    if entry is None:
        return head
    committed = tuple(one for one in head.committed if one.path != entry.path)
    return head.model_copy(update={"committed": committed, "deleting": (*head.deleting, entry.path)})
