"""Compares two runs: every loss of every step, bit for bit, including repeated steps. Pure.

A trainer writes a loss with all digits of its float32, so two logs can be compared exactly. A disturbed run repeats
some steps after a crash; each repetition must have the same loss too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from halcyon_demo.records import LogLine, ProcessGroup


@dataclass(frozen=True)
class Loss:
    """The loss of one step as one process group wrote it.

    Attributes:
        step: Steps done.
        group: The process group that wrote it.
        bits: The exact number: `float.hex`, or the text in the log if JSON has no number for it (`NaN`).
    """

    step: int
    group: ProcessGroup
    bits: str

    @property
    def value(self) -> float:
        """The number."""
        return float.fromhex(self.bits)


@dataclass(frozen=True)
class GroupResult:
    """The steps of one process group of the disturbed run.

    Attributes:
        group: The process group.
        first: Its first step.
        last: Its last step.
        repeated: Number of its steps that an earlier process group had done already.
        equal: Number of its losses that equal those of the undisturbed run.
        count: Number of losses it wrote.
    """

    group: ProcessGroup
    first: int
    last: int
    repeated: int
    equal: int
    count: int


@dataclass(frozen=True)
class Comparison:
    """The result of comparing the disturbed run with the undisturbed one.

    Attributes:
        groups: The process groups of the disturbed run, oldest first.
        steps: Number of different steps that were compared.
        differences: A sentence for every step that is different or missing.
    """

    groups: tuple[GroupResult, ...]
    steps: int
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every step is in both runs, with equal losses."""
        return not self.differences

    @property
    def repeated(self) -> int:
        """Number of repeated steps in the disturbed run."""
        return sum(group.repeated for group in self.groups)


def losses(lines: Iterable[LogLine], run: str) -> list[Loss]:
    """Return the losses of a run in the order in which they were written, without those that an audit has rejected."""
    mine = [line for line in lines if line.run == run]
    rejected = _rejected(mine)
    return [
        Loss(line.step, line.group, bits(line.fields["loss"]))
        for line in mine
        if line.event == "step" and line.step < rejected.get(line.group, line.step + 1)
    ]


def _rejected(lines: list[LogLine]) -> dict[ProcessGroup, int]:
    """The first rejected step of each process group in which an audit has found wrong numbers: the first one that the
    next group has done again.
    """
    found: dict[ProcessGroup, int] = {}
    for group in {line.group for line in lines if line.event == "corrupted"}:
        later = [line for line in lines if line.event == "step" and line.group > group]
        following = min((line.group for line in later), default=None)
        found[group] = min((line.step for line in later if line.group == following), default=0)
    return found


def bits(loss: float | int | str) -> str:
    """Format a loss so that two texts are equal if and only if the numbers are equal to the last bit."""
    return loss if isinstance(loss, str) else float(loss).hex()


def compare(disturbed: list[Loss], undisturbed: list[Loss], steps: int) -> Comparison:
    """Compare all losses of two runs.

    Args:
        disturbed: Losses of a run that may have repeated steps.
        undisturbed: Losses of a run that did every step once.
        steps: Number of steps of each run; every step must be in both.
    """
    reference = {loss.step: loss.bits for loss in undisturbed}
    differences = [
        f"step {loss.step} in process group {name(loss.group)}: {loss.bits}, but the undisturbed run has "
        f"{reference[loss.step]}"
        for loss in disturbed
        if loss.step in reference and loss.bits != reference[loss.step]
    ]
    for title, found in (("disturbed", {loss.step for loss in disturbed}), ("undisturbed", set(reference))):
        if missing := sorted(set(range(1, steps + 1)) - found):
            differences.append(
                f"the log of the {title} run lacks {len(missing)} of {steps} steps, the first is step {missing[0]}"
            )
    if len(reference) != len(undisturbed):
        differences.append("the undisturbed run did some steps more than once, so something disturbed it")
    return Comparison(
        groups=tuple(_group_results(disturbed, reference)),
        steps=len({loss.step for loss in disturbed} & set(reference)),
        differences=tuple(differences),
    )


def _group_results(disturbed: list[Loss], reference: dict[int, str]) -> Iterable[GroupResult]:
    seen: set[int] = set()
    for group in sorted({loss.group for loss in disturbed}):
        mine = [loss for loss in disturbed if loss.group == group]
        steps = {loss.step for loss in mine}
        yield GroupResult(
            group=group,
            first=min(steps),
            last=max(steps),
            repeated=len(steps & seen),
            equal=sum(reference.get(loss.step) == loss.bits for loss in mine),
            count=len(mine),
        )
        seen |= steps


def name(group: ProcessGroup) -> str:
    """Format a process group as `attempt.restart`, or as `attempt.restart+number` if it started again in its pods."""
    attempt, restart, in_place = group
    return f"{attempt}.{restart}" + (f"+{in_place}" if in_place else "")
