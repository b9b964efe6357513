"""Decides which checkpoints stay, and makes room for a save on a disk that may be too small.

Before process 0 writes, it compares the free space with the size of the whole state; each other process compares it
with the size of its own files, because all use the same file system. If space is tight, or the disk becomes full during
a save, the compiled programs in the root are deleted first, because a restart can compile again. If that is not enough,
one checkpoint is deleted early: the oldest that is not permanent, pinned, `kept_for_verification` or `kept_as_best`,
and never one of the two newest. The free space of an object store is unknown, so nothing is deleted early.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, Head
from halcyon_api.spec.checkpoint import CheckpointSpec, PermanentSpec


def kept_for_verification(committed: Sequence[CommittedStep]) -> frozenset[str]:
    """Prefixes of checkpoints that stay because of their verification: the newest that passed, and a newer one that is
    still to be read.

    Args:
        committed: Newest first.
    """
    for number, entry in enumerate(committed):
        if entry.verification == "passed":
            wanted = next((one.path for one in committed[:number] if one.verification == "wanted"), entry.path)
            return frozenset({entry.path, wanted})
    return frozenset(next(((entry.path,) for entry in committed if entry.verification == "wanted"), ()))


def kept_as_best(committed: Sequence[CommittedStep], newest: int) -> frozenset[str]:
    """Prefixes of the best checkpoints, by the evaluations that each of the newest checkpoints knows
    (`CommittedStep.evaluation`).

    A run that resumes from any of these checkpoints, such as after damage of the newest, finds the best checkpoint of
    its own evaluations. If the save of the best step failed, the best one before it stays.

    Args:
        committed: Newest first.
        newest: The number of newest checkpoints that stay.
    """
    prefixes: set[str] = set()
    for entry in committed[:newest]:
        best = entry.evaluation and entry.evaluation.best_step
        if best is not None:
            kept = (
                one.path
                for one in committed
                if one.step == best
                or (one.step < best and one.evaluation is not None and one.evaluation.best_step == one.step)
            )
            prefixes.update(islice(kept, 1))
    return frozenset(prefixes)


@dataclass(frozen=True)
class Retention:
    """The checkpoints that a run keeps.

    Attributes:
        newest: Number of newest checkpoints that stay.
        permanent: Steps whose checkpoints are never deleted, in ascending order of ``until_step``.
        in_use: Whether something still reads the checkpoint of a step, such as an export. Only a full disk deletes it.
    """

    newest: int
    permanent: tuple[PermanentSpec, ...] = ()
    in_use: Callable[[int], bool] = lambda step: False

    @classmethod
    def of(cls, spec: CheckpointSpec, in_use: Callable[[int], bool] = lambda step: False) -> Self:
        """The retention of a run document."""
        return cls(spec.keep, tuple(spec.permanent), in_use)

    def keeps(self, number: int, step: int) -> bool:
        """Whether the ``number``-th newest checkpoint, counted from 0, stays. It is of step `step`."""
        return number < self.newest or self.is_permanent(step) or self.in_use(step)

    def is_permanent(self, step: int) -> bool:
        """Whether a checkpoint is made after `step` steps and never deleted."""
        for entry in self.permanent:
            if entry.until_step is None or step <= entry.until_step:
                return step > 0 and step % entry.every_steps == 0
        return False


PROGRAMS_PREFIX = "compilation/"
"""Prefix of the compilation cache in a root."""
MARGIN = 1.2
"""Room is made first if less than this times a save's size is free, because other programs write to the disk too."""
ALWAYS_KEPT = 2
"""Number of newest checkpoints that are never deleted early."""


def is_tight(store: Store, needed_bytes: int) -> bool:
    """Whether the free space may be too small for a save."""
    free = store.free_bytes()
    return free is not None and free < MARGIN * needed_bytes


def delete_programs(store: Store) -> int:
    """Delete the compiled programs of a `file://` root. Returns their number; 0 for an object store, where nothing is
    deleted.

    Raises:
        StoreFailure: The root does not answer.
    """
    keys = store.list(PROGRAMS_PREFIX) if store.folder is not None else []
    if keys:
        store.delete_prefix(PROGRAMS_PREFIX)
    return len(keys)


def dispensable(head: Head, retention: Retention) -> CommittedStep | None:
    """The checkpoint to delete first if there is no room for a new one; None if none may be deleted."""
    kept = kept_for_verification(head.committed) | kept_as_best(head.committed, retention.newest) | set(head.pinned)
    for entry in reversed(head.committed[ALWAYS_KEPT:]):
        if entry.path not in kept and not retention.is_permanent(entry.step):
            return entry
    return None


def with_early_deletion(head: Head, retention: Retention) -> Head:
    """HEAD after the deletion of the `dispensable` checkpoint began."""
    entry = dispensable(head, retention)
    if entry is None:
        return head
    committed = tuple(one for one in head.committed if one.path != entry.path)
    return head.but(committed=committed, deleting=(*head.deleting, entry.path))
