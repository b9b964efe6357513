"""Learning rate schedules as phases, with their cycles in steps, and the errors of schedules that do not fit into the
run. Pure.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from halcyon_api.spec.optimizer import MOMENTUM, OptimizerSpec
from halcyon_api.spec.schedule import (
    ABOVE_ZERO,
    MAX_CYCLES,
    ConstantScheduleSpec,
    CosineScheduleSpec,
    PhasesScheduleSpec,
    ScheduleSpec,
    WsdScheduleSpec,
    steps_in,
)
from halcyon_api.spec.trainer import TrainerSpec

_FIELD = "spec.optimizer.schedule"
_OTHERS = "spec.optimizer.otherSchedules"


Problems = Iterator[tuple[str, str]]
"""Each problem of a document as the field and one sentence with the fix."""


class Cycle(NamedTuple):
    """One cycle. Its stable phase is between warm-up and decay."""

    start: int
    """Steps done before it."""
    steps: int
    warmup: int
    decay: int


def as_phases(schedule: ScheduleSpec, steps: int) -> tuple[PhasesScheduleSpec, tuple[Cycle, ...]]:
    """A schedule as phases, of which each schedule is a spelling, and its cycles, at least one.

    Args:
        schedule: ``spec.optimizer.schedule``, without a problem of `schedule_problems`.
        steps: ``spec.trainer.steps``.
    """
    match schedule.value:
        case ConstantScheduleSpec(warmup_steps=warmup):
            return PhasesScheduleSpec(shape="constant", first_rate="afterOneStep"), (Cycle(0, steps, warmup, 0),)
        case CosineScheduleSpec(warmup_steps=warmup, decay_steps=last, min_ratio=least):
            last = max(last or steps, warmup + 1)  # a warm-up over the whole run ends with the first rate of the decay
            spec = PhasesScheduleSpec(shape="cosine", min_ratio=least, first_rate="afterOneStep")
            return spec, (Cycle(0, last, warmup, last - warmup),)
        case WsdScheduleSpec(warmup_steps=warmup, decay_steps=decay, min_ratio=least):
            spec = PhasesScheduleSpec(shape="linear", min_ratio=least, first_rate="afterOneStep")
            return spec, (Cycle(0, steps, warmup, decay),)
        case PhasesScheduleSpec() as spec:
            return spec, cycles_of(spec, steps)
        case other:
            raise TypeError(f"a schedule of type {type(other).__name__} has no phases")


def cycles_of(spec: PhasesScheduleSpec, steps: int) -> tuple[Cycle, ...]:
    """The cycles of a run, at least one.

    Args:
        spec: ``spec.optimizer.schedule.phases``, without a problem of `schedule_problems`.
        steps: ``spec.trainer.steps``.
    """
    found: list[Cycle] = []
    for number, (start, end) in enumerate(pairwise(_bounds(spec, steps))):
        length = end - start
        warmup = steps_in(spec.rewarmup if number else spec.warmup, length)
        decay = length - warmup if spec.decay is None else steps_in(spec.decay, length)
        found.append(Cycle(start, length, warmup, decay))
    return tuple(found)


def _bounds(spec: PhasesScheduleSpec, steps: int) -> list[int]:
    """The steps at which cycles begin and end."""
    if spec.cycles is not None:
        inner = [int(steps / spec.cycles * number) for number in range(1, spec.cycles)]
    elif spec.cycle_lengths is not None:
        inner = [sum(spec.cycle_lengths[: number + 1]) for number in range(len(spec.cycle_lengths))]
    else:
        inner = spec.cycle_ends or []
    return [0, *inner] if inner and inner[-1] == steps else [0, *inner, steps]


def schedule_problems(optimizer: OptimizerSpec, trainer: TrainerSpec) -> Problems:
    """The field and the sentence of each schedule that does not fit into the run or has a value that its rule cannot
    use.
    """
    steps, schedule = trainer.steps, optimizer.schedule
    wsd, cosine, phases = schedule.wsd, schedule.cosine, schedule.phases
    if wsd and wsd.warmup_steps + wsd.decay_steps > steps:
        sentence = (
            f"{wsd.warmup_steps} steps of warm-up and {wsd.decay_steps} of decay are more than the {steps} steps of "
            "the run"
        )
        yield f"{_FIELD}.wsd.decaySteps", f"{sentence}; give fewer, or more trainer.steps"
    if cosine and cosine.decay_steps is None and cosine.warmup_steps > steps:
        sentence = (
            f"{cosine.warmup_steps} steps of warm-up are more than the {steps} steps of the run, which would end "
            "before its peak"
        )
        yield f"{_FIELD}.cosine.warmupSteps", f"{sentence}; give fewer, or more trainer.steps"
    if cosine and cosine.decay_steps is not None and cosine.decay_steps <= cosine.warmup_steps:
        sentence = f"{cosine.decay_steps} is not after the {cosine.warmup_steps} steps of the warm-up"
        yield f"{_FIELD}.cosine.decaySteps", f"{sentence}; it counts from the first step, so give more"
    if phases is not None:
        found = _phases_problem(phases, steps)
        if found is not None:
            yield f"{_FIELD}.phases.{found[0]}", found[1]
    yield from _other_problems(optimizer, trainer)


def _phases_problem(spec: PhasesScheduleSpec, steps: int) -> tuple[str, str] | None:
    """The first problem of a schedule of phases: its field and its sentence."""
    for name, length in (("warmup", spec.warmup), ("decay", spec.decay), ("rewarmup", spec.rewarmup)):
        if length is not None and length > 1 and length % 1:
            return (
                name,
                f"{length:g} is neither a fraction nor whole steps; give at most 1 for a fraction, or whole steps",
            )
    if spec.shape in ABOVE_ZERO and not spec.min_ratio:
        return "minRatio", f"shape {spec.shape} never reaches 0; give more than 0"
    if spec.shape not in ("cosine", "polynomial", "power") and spec.exponent is not None:
        return "exponent", f"shape {spec.shape} has no exponent; leave it out"
    if spec.exponent is not None and (spec.exponent < 0) is not (spec.shape == "power"):
        return (
            "exponent",
            f"shape {spec.shape} needs an exponent {'below' if spec.shape == 'power' else 'of at least'} 0",
        )
    if spec.shape not in ("inverseSquareRoot", "inverseSquareRootDecay", "power") and spec.scale is not None:
        return "scale", f"shape {spec.shape} has no scale; leave it out"
    if spec.cycles is not None and spec.cycles > min(steps, MAX_CYCLES):
        return (
            "cycles",
            f"{spec.cycles} cycles are more than the {steps} steps of the run, or than {MAX_CYCLES}; give fewer",
        )
    bounds, name = _bounds(spec, steps), "cycleLengths" if spec.cycle_lengths is not None else "cycleEnds"
    if bounds[-1] != steps or any(end <= start for start, end in pairwise(bounds)):
        over = max(bounds)
        if over > steps:
            return (
                name,
                f"the cycles end at step {over}, after the {steps} steps of the run; give fewer, or more trainer.steps",
            )
        return name, "the steps at which cycles end must rise"
    for number, cycle in enumerate(cycles_of(spec, steps)):
        if cycle.warmup + max(cycle.decay, 0) > cycle.steps:
            parts = f"{cycle.warmup} steps of warm-up and {max(cycle.decay, 0)} of decay"
            whole = f"cycle {number + 1}" if len(bounds) > 2 else "the run"
            return (
                "decay" if spec.decay is not None else "rewarmup" if number else "warmup",
                f"{parts} are more than the {cycle.steps} steps of {whole}; give fewer",
            )
    return None


def _other_problems(optimizer: OptimizerSpec, trainer: TrainerSpec) -> Problems:
    others = optimizer.other_schedules
    if others is None:
        return
    sentence = _points_problem([point.at for point in others.points], trainer.steps)
    if sentence:
        yield f"{_OTHERS}.points", sentence
    if others.points_of("momentum") and optimizer.kind not in MOMENTUM:
        yield (
            f"{_OTHERS}.points",
            f"{optimizer.kind} has no momentum to schedule; leave momentum out, or use {', '.join(MOMENTUM)}",
        )
    if others.weight_decay_shape is not None and others.points_of("weight_decay"):
        yield f"{_OTHERS}.weightDecayShape", "points set the weight decay too; leave one of them out"
    if others.rate_by_batch_size is not None and len(set(trainer.batch_sizes)) == 1:
        field = f"{_OTHERS}.rateByBatchSize"
        yield field, "the batch size never changes; leave it out, or give trainer.batchSchedule other batch sizes"


def _points_problem(places: list[float], steps: int) -> str | None:
    if wrong := next((place for place in places if place > 1 and place % 1), None):
        return f"at {wrong:g} is neither a fraction nor whole steps; give at most 1 for a fraction, or whole steps"
    at = [steps_in(place, steps) for place in places]
    if at and max(at) > steps:
        return f"a point at step {max(at)} is after the {steps} steps of the run; give fewer, or more trainer.steps"
    if any(right <= left for left, right in pairwise(at)):
        return "the points must be in rising order of at"
    return None
