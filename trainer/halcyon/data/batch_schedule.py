"""Which sequences a step takes, where batch size and sequence length change in the middle of a run.

Sources are laid out, shuffled and mixed in sequences of the run's *longest* length, so a change of length moves nothing. A stage with the
length ``longest / r`` cuts each of them into ``r`` parts, which follow one another in the order of training. A stage that begins in the
middle of a sequence begins with the next one; the parts left over are not trained on (at most ``r - 1`` of them).

Every stage begins at a known position, so the positions of a step, and the step of a position, are found by a search among the stages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from halcyon_api.spec.trainer import BatchScheduleEntry, TrainerSpec

_MAX_STEPS = 2**60


@dataclass(frozen=True)
class Stage:
    """Steps of one size."""

    first_step: int
    """First step, counted from 0."""
    first_position: int
    """Position of its first sequence in the order of training, in sequences of the longest length."""
    batch_size: int
    """Sequences of a step."""
    sequence_length: int
    """Positions of a sequence."""
    parts: int
    """The number of sequences of this length that one of the longest is cut into."""

    def positions_before(self, step: int) -> int:
        """Position after the last sequence that the steps before ``step`` have begun."""
        return self.first_position + -(-(step - self.first_step) * self.batch_size // self.parts)


class BatchSchedule:
    """Steps to positions.

    Args:
        steps: Steps of the run; later ones have positions too.
        batch_size: Sequences of a step.
        sequence_length: Positions of a sequence.
        stages: Other sizes from certain steps on, in rising order. Stages that the run never reaches count for the longest length too, so
            that a run which is cut short sees the same data.
    """

    def __init__(self, *, steps: int, batch_size: int, sequence_length: int, stages: Sequence[BatchScheduleEntry] = ()) -> None:
        self.steps = steps
        sizes = _sizes(batch_size, sequence_length, stages)
        self.longest = max(length for _, _, length in sizes)
        """Positions of the run's longest sequence."""
        built: list[Stage] = []
        for first_step, batch, length in sizes:
            parts, rest = divmod(self.longest, length)
            if rest:
                raise ValueError(f"a sequence length of {length} does not divide the longest one, {self.longest}")
            first_position = built[-1].positions_before(first_step) if built else 0
            built.append(Stage(first_step, first_position, batch, length, parts))
        self.stages: tuple[Stage, ...] = tuple(built)
        """All stages; the first one begins at step 0."""
        self._first_steps = [stage.first_step for stage in built]
        self._first_positions = [stage.first_position for stage in built]
        self._tokens = [0]
        for stage, following in pairwise(built):
            steps_of_stage = following.first_step - stage.first_step
            self._tokens.append(self._tokens[-1] + steps_of_stage * stage.batch_size * stage.sequence_length)

    def stage_of(self, step: int) -> Stage:
        """The stage that a step (counted from 0) is in."""
        return self.stages[self._number(step)]

    def batch_size(self, step: int) -> int:
        """Sequences of a step."""
        return self.stage_of(step).batch_size

    def sequence_length(self, step: int) -> int:
        """Positions of a step's sequences."""
        return self.stage_of(step).sequence_length

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What a step takes: positions in the order of training, int64 [B], and which part of each sequence, int32 [B]."""
        stage = self.stage_of(step)
        first = (step - stage.first_step) * stage.batch_size
        units = np.arange(first, first + stage.batch_size, dtype=np.int64)
        sequences, parts = np.divmod(units, stage.parts)
        return stage.first_position + sequences, parts.astype(np.int32)

    def positions_before(self, step: int) -> int:
        """The number of positions begun before a step: a change at this step takes effect from this position on."""
        return self.stage_of(step).positions_before(step)

    def tokens_before(self, step: int) -> int:
        """Positions of all sequences of the steps before ``step``: tokens trained on, padding included."""
        number = self._number(step)
        stage = self.stages[number]
        return self._tokens[number] + (step - stage.first_step) * stage.batch_size * stage.sequence_length

    def step_of(self, position: int, part: int = 0) -> int | None:
        """The step that trains on a part of the sequence at a position; None: no step does, as a stage ended there."""
        if position < 0:
            raise IndexError("a position is below 0")
        number = bisect_right(self._first_positions, position) - 1
        stage = self.stages[number]
        if not 0 <= part < stage.parts:
            raise IndexError(f"position {position} is cut into {stage.parts} parts")
        step = stage.first_step + ((position - stage.first_position) * stage.parts + part) // stage.batch_size
        return step if number + 1 == len(self.stages) or step < self.stages[number + 1].first_step else None

    def steps_within(self, positions: int, *, partial: bool) -> int:
        """The number of steps that the first ``positions`` positions are enough for; a last step that is not full counts if ``partial``."""
        if partial:
            return bisect_left(range(_MAX_STEPS), positions, key=self._first_position)
        return bisect_right(range(_MAX_STEPS), positions, key=self.positions_before) - 1

    def _first_position(self, step: int) -> int:
        stage = self.stage_of(step)
        return stage.first_position + (step - stage.first_step) * stage.batch_size // stage.parts

    def _number(self, step: int) -> int:
        if step < 0:
            raise IndexError("a step is below 0")
        return bisect_right(self._first_steps, step) - 1


def build_schedule(spec: TrainerSpec) -> BatchSchedule:
    """The schedule that ``spec.trainer`` asks for; `halcyon_api.validation` says in advance which lengths do not fit."""
    return BatchSchedule(steps=spec.steps, batch_size=spec.batch_size, sequence_length=spec.sequence_length, stages=spec.batch_schedule)


def _sizes(batch_size: int, sequence_length: int, stages: Sequence[BatchScheduleEntry]) -> list[tuple[int, int, int]]:
    """First step, batch size and sequence length of each stage."""
    sizes = [(0, batch_size, sequence_length)]
    for stage in stages:
        sizes.append((stage.from_step, stage.batch_size or sizes[-1][1], stage.sequence_length or sizes[-1][2]))
    return sizes
