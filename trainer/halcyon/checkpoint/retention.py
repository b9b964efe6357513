"""Which checkpoints stay, and how room is made for a save on a disk that may be too small.

Before process 0 writes anything it compares the free space with what the whole state needs; the other processes compare it with what they
write themselves, because all ask the same file system. Where space is tight, or the disk is full in the middle of a save, the compiled
programs in the root are deleted first, because a restart can compile again. If that is not enough, one checkpoint is deleted early: the
oldest that is not permanent, and never one of the two newest. For an object store nothing is known beforehand and nothing is deleted early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, Head
from halcyon_api.spec.checkpoint import CheckpointSpec, PermanentSpec


def guarded(committed: Sequence[CommittedStep]) -> frozenset[str]:
    """Prefixes of checkpoints that stay for their verification's sake: the newest that passed, and a newer one that is still to be read.

    Args:
        committed: Newest first.
    """
    for number, entry in enumerate(committed):
        if entry.verification == "passed":
            wanted = next((one.path for one in committed[:number] if one.verification == "wanted"), entry.path)
            return frozenset({entry.path, wanted})
    return frozenset(next(((one.path,) for one in committed if one.verification == "wanted"), ()))


@dataclass(frozen=True)
class Retention:
    """What a run keeps of its checkpoints.

    Attributes:
        newest: The number of newest checkpoints that stay.
        permanent: Steps that are kept for good, in rising order of their ends.
    """

    newest: int
    permanent: tuple[PermanentSpec, ...] = ()

    @classmethod
    def of(cls, spec: CheckpointSpec) -> Self:
        """What a run's document asks for."""
        return cls(spec.keep, tuple(spec.permanent))

    def keeps(self, number: int, step: int) -> bool:
        """Whether the checkpoint of a step stays that is the ``number``-th newest, counted from 0."""
        return number < self.newest or self.is_permanent(step)

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint after `step` steps is made, and kept for good."""
        for entry in self.permanent:
            if entry.until_step is None or step <= entry.until_step:
                return step > 0 and step % entry.every_steps == 0
        return False


PROGRAMS_PREFIX = "compilation/"
"""Where compiled programs lie in a root."""
MARGIN = 1.2
"""Where less than this times a save's size is free, room is made first: others write to the disk too."""
FEWEST = 2
"""The number of newest checkpoints that always stay."""


def is_tight(store: Store, needed_bytes: int) -> bool:
    """Whether the free space may be too small for a save."""
    free = store.free_bytes()
    return free is not None and free < MARGIN * needed_bytes


def expect_room(store: Store, needed_bytes: int) -> None:
    """Check that a save of this size can fit at all.

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
