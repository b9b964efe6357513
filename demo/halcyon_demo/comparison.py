"""Whether two runs are the same run: every loss of every step, bit for bit, repeated steps included. Pure.

A trainer writes a loss with all digits of its float32, so two logs can be compared exactly. A disturbed run does some steps again after a
crash; each of those repetitions must have the same loss as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from halcyon_demo.records import LogLine, World


@dataclass(frozen=True)
class Loss:
    """The loss of one step as one world wrote it.

    Attributes:
        step: Steps done.
        world: Who wrote it.
        bits: The number, written exactly: `float.hex`, or what JSON has instead of it (`NaN`).
    """

    step: int
    world: World
    bits: str


@dataclass(frozen=True)
class WorldResult:
    """What one world of the disturbed run did.

    Attributes:
        world: Which.
        first: Its first step.
        last: Its last one.
        repeated: How many of its steps an earlier world had done already.
        equal: How many of its losses are those of the undisturbed run.
        count: How many losses it wrote.
    """

    world: World
    first: int
    last: int
    repeated: int
    equal: int
    count: int


@dataclass(frozen=True)
class Comparison:
    """The disturbed run beside the undisturbed one.

    Attributes:
        worlds: The worlds of the disturbed run, in order.
        steps: How many different steps were compared.
        differences: A sentence for every step that is not equal or not there.
    """

    worlds: tuple[WorldResult, ...]
    steps: int
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every step of both runs is there and equal."""
        return not self.differences

    @property
    def repeated(self) -> int:
        """Steps that the disturbed run did more than once."""
        return sum(world.repeated for world in self.worlds)


def losses(lines: Iterable[LogLine], run: str) -> list[Loss]:
    """Return the losses of a run in the order in which they were written."""
    return [Loss(line.step, line.world, bits(line.fields["loss"])) for line in lines if line.run == run and line.event == "step"]


def bits(loss: float | int | str) -> str:
    """Write a loss so that equal texts are equal numbers, to the last bit."""
    return loss if isinstance(loss, str) else float(loss).hex()


def compare(disturbed: list[Loss], undisturbed: list[Loss], steps: int) -> Comparison:
    """Compare all losses of two runs.

    Args:
        disturbed: Of a run that may have repeated steps.
        undisturbed: Of a run that did every step once.
        steps: How many steps both should have done; every one of them must be in both.
    """
    reference = {loss.step: loss.bits for loss in undisturbed}
    differences = [
        f"step {loss.step} in world {name(loss.world)}: {loss.bits} where the undisturbed run has {reference[loss.step]}"
        for loss in disturbed
        if loss.step in reference and loss.bits != reference[loss.step]
    ]
    for title, found in (("disturbed", {loss.step for loss in disturbed}), ("undisturbed", set(reference))):
        if missing := sorted(set(range(1, steps + 1)) - found):
            differences.append(f"the log of the {title} run lacks {len(missing)} of {steps} steps, the first is step {missing[0]}")
    if len(reference) != len(undisturbed):
        differences.append("the undisturbed run did some steps more than once, so something disturbed it")
    return Comparison(
        worlds=tuple(_world_results(disturbed, reference)),
        steps=len({loss.step for loss in disturbed} & set(reference)),
        differences=tuple(differences),
    )


def _world_results(disturbed: list[Loss], reference: dict[int, str]) -> Iterable[WorldResult]:
    seen: set[int] = set()
    for world in sorted({loss.world for loss in disturbed}):
        mine = [loss for loss in disturbed if loss.world == world]
        steps = {loss.step for loss in mine}
        yield WorldResult(
            world=world,
            first=min(steps),
            last=max(steps),
            repeated=len(steps & seen),
            equal=sum(reference.get(loss.step) == loss.bits for loss in mine),
            count=len(mine),
        )
        seen |= steps


def name(world: World) -> str:
    """Write a world as `attempt.restart`."""
    return f"{world[0]}.{world[1]}"
