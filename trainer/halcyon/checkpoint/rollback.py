"""The return of a run to an earlier checkpoint of itself, past batches that it then leaves out. Pure functions of HEAD.

A return is one change of HEAD by compare-and-swap: the newer checkpoints leave ``committed``, and ``skipped`` gets an
entry. So a process that is killed before the change does the same steps again and comes to the same decision, and one
that is killed after it begins at the checkpoint with the entry. From then on the batch of each step is a function of
the document and these entries (`batch_number`).
"""

from collections.abc import Callable, Iterable
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
        entry = SkippedBatches(
            step=target.step, batches=batches, reason=self.reason[:_LONGEST_REASON], epoch=head.epoch
        )
        return _gone_back(head, target, entry)


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
        if target is None or target == head.newest:
            return head
        return _gone_back(
            head,
            target,
            SkippedBatches(step=target.step, batches=0, reason=self.reason[:_LONGEST_REASON], epoch=head.epoch),
        )


GoesBack = Return | Distrust
"""A reason to go back to an earlier checkpoint. `applied` is HEAD after the return; unchanged if the run need not go
back, or cannot.
"""


def _gone_back(head: Head, target: CommittedStep, entry: SkippedBatches) -> Head:
    newer = [entry for entry in head.committed if entry.step > target.step]
    kept = tuple(entry for entry in newer if entry.path in head.pinned)
    why = f"the run went back to step {target.step}"
    return head.but(
        committed=tuple(entry for entry in head.committed if entry.step <= target.step),
        deleting=(*head.deleting, *(entry.path for entry in newer if entry not in kept)),
        bad=(*head.bad, *(BadStep(path=entry.path, step=entry.step, reason=why) for entry in kept)),
        skipped=(*head.skipped, entry),
    )


class KeepsAudited(CheckpointReader):
    """Keeps the newest checkpoint that an audit has confirmed.

    Args:
        audited: Step of the last audit that found all numbers right, at the time of the call.
        committed: The checkpoints, newest first.
    """

    def __init__(self, audited: Callable[[], int | None], committed: Iterable[CommittedStep]) -> None:
        self._audited, self._steps = audited, {entry.step for entry in committed}

    def committed(self, entry: CommittedStep) -> None:
        """See `CheckpointReader`."""
        self._steps.add(entry.step)

    def in_use(self, step: int) -> bool:
        """See `CheckpointReader`."""
        audited = self._audited() or 0
        return step == max((one for one in self._steps if one <= audited), default=None)


class KeepsNewestByStep(CheckpointReader):
    """Keeps the newest checkpoint made by step while a run may go back to it.

    Args:
        by_step: See `Return.by_step`.
        committed: The checkpoints, newest first.
    """

    def __init__(self, by_step: Callable[[int], bool], committed: Iterable[CommittedStep]) -> None:
        self._by_step = by_step
        self._step: int | None = next((entry.step for entry in committed if by_step(entry.step)), None)

    def committed(self, entry: CommittedStep) -> None:
        """See `CheckpointReader`."""
        if self._by_step(entry.step):
            self._step = entry.step

    def in_use(self, step: int) -> bool:
        """See `CheckpointReader`."""
        return step == self._step
