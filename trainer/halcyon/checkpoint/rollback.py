"""The return of a run to an earlier checkpoint of itself, past batches that it then leaves out. Pure functions of HEAD.

A return is one change of HEAD by compare-and-swap: the newer checkpoints leave ``committed``, and ``skipped`` gets an
entry. So a process that is killed before the change does the same steps again and comes to the same decision, and one
that is killed after it begins at the checkpoint with the entry. From then on the batch of each step is a function of
the document and these entries (`batch_number`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from halcyon.checkpoint.results import CheckpointReader
from halcyon_api.checkpoint_documents import BadStep, CommittedStep, Head, SkippedBatches

_LONGEST_REASON = 512


def in_force(skipped: Iterable[SkippedBatches]) -> tuple[SkippedBatches, ...]:
    """The entries that still count: a return to an earlier checkpoint removes those of later checkpoints."""
    counting: list[SkippedBatches] = []
    for entry in skipped:
        counting = [one for one in counting if one.step <= entry.step]
        counting.append(entry)
    return tuple(counting)


def until(skipped: Iterable[SkippedBatches], step: int) -> tuple[SkippedBatches, ...]:
    """The entries in force that a checkpoint of this step has in its past, or begins with."""
    return tuple(entry for entry in in_force(skipped) if entry.step <= step)


def batch_number(skipped: Iterable[SkippedBatches], step: int) -> int:
    """The number of the batch of a step, both counted from 0: the step, and all batches that were left out up to it."""
    return step + sum(entry.batches for entry in until(skipped, step))


@dataclass(frozen=True)
class Return:
    """What a run does about a step that its policy rejects.

    Attributes:
        bad_step: The step, counted from 1.
        reason: The numbers of the step.
        further: Batches to leave out after that of the step.
        by_step: Whether a checkpoint of a step was made because of the number of the step. Such a checkpoint is
            preferred, because a run without preemptions has it too.
    """

    bad_step: int
    reason: str
    further: int = 0
    by_step: Callable[[int], bool] = lambda step: False

    def target(self, head: Head) -> CommittedStep | None:
        """The checkpoint to go back to: the newest made by step, else the newest. None: there is none."""
        before = [entry for entry in head.committed if entry.step < self.bad_step]
        return next((entry for entry in before if self.by_step(entry.step)), before[0] if before else None)

    def applied(self, head: Head) -> Head:
        """HEAD after the return; unchanged without a checkpoint to go back to.

        A pinned newer checkpoint keeps its files.
        """
        target = self.target(head)
        if target is None:
            return head
        end = batch_number(head.skipped, self.bad_step - 1) + 1 + self.further
        batches = end - batch_number(until(head.skipped, target.step), target.step)
        return _gone_back(head, target, batches, self.reason)


@dataclass(frozen=True)
class Distrust:
    """What a run does when an audit finds wrong numbers: it goes back, and leaves out no batch.

    Attributes:
        audited: Step of the last audit that found all numbers right.
        reason: What the audit found.
    """

    audited: int
    reason: str

    def target(self, head: Head) -> CommittedStep | None:
        """The newest checkpoint that an audit has confirmed, else the oldest. None: there is none."""
        oldest = head.committed[-1] if head.committed else None
        return next((entry for entry in head.committed if entry.step <= self.audited), oldest)

    def applied(self, head: Head) -> Head:
        """HEAD without the checkpoints that no audit has confirmed; unchanged if there are none."""
        target = self.target(head)
        return head if target is None or target == head.newest else _gone_back(head, target, 0, self.reason)


GoesBack = Return | Distrust
"""A reason to go back to an earlier checkpoint. `applied` is HEAD after the return; unchanged if the run need not go
back, or cannot.
"""


def _gone_back(head: Head, target: CommittedStep, batches: int, reason: str) -> Head:
    skipped = SkippedBatches(step=target.step, batches=batches, reason=reason[:_LONGEST_REASON], epoch=head.epoch)
    newer = [entry for entry in head.committed if entry.step > target.step]
    kept = tuple(entry for entry in newer if entry.path in head.pinned)
    why = f"the run went back to step {target.step}"
    return head.but(
        committed=tuple(entry for entry in head.committed if entry.step <= target.step),
        deleting=(*head.deleting, *(entry.path for entry in newer if entry not in kept)),
        bad=(*head.bad, *(BadStep(path=entry.path, step=entry.step, reason=why) for entry in kept)),
        skipped=(*head.skipped, skipped),
    )


class KeepsNewest(CheckpointReader):
    """Keeps the newest checkpoint that the run may go back to.

    Args:
        counts: Whether the run may go back to the checkpoint of a step, at the time of the call.
        committed: The checkpoints, newest first.
    """

    def __init__(self, counts: Callable[[int], bool], committed: Sequence[CommittedStep]) -> None:
        self._counts = counts
        self._steps = dict.fromkeys(entry.step for entry in reversed(committed))
        """The steps in the order of their last commits."""

    def committed(self, entry: CommittedStep) -> None:
        """See `CheckpointReader`."""
        self._steps.pop(entry.step, None)
        self._steps[entry.step] = None

    def in_use(self, step: int) -> bool:
        """See `CheckpointReader`."""
        return step == next(filter(self._counts, reversed(self._steps)), None)
