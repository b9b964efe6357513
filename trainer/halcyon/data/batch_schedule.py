"""Batch schedule: the sequences of each step, where batch size and sequence length may change during a run.

Sources are laid out, shuffled and mixed in sequences of the run's *longest* length, so a change of length does not
change their order. A period with the length ``longest / r`` cuts each sequence into ``r`` consecutive parts of the
training order. If a period ends in the middle of a sequence, the next period begins with the next sequence; the
remaining parts (at most ``r - 1``) are not trained on.

Every period begins at a known position, so a search among the periods finds the positions of a step and the step of a
position.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from halcyon_api.spec.trainer import BatchScheduleEntry, TrainerSpec

_MAX_STEPS = 2**60


@dataclass(frozen=True)
class Period:
    """Consecutive steps with the same batch size and sequence length."""

    first_step: int
    """First step, counted from 0."""
    first_position: int
    """Position of the first sequence in the training order, in sequences of the longest length."""
    batch_size: int
    """Sequences per step."""
    sequence_length: int
    """Positions per sequence."""
    parts: int
    """Sequences of this length that one sequence of the longest length is cut into, or rows that it is repeated in."""

    def positions_before(self, step: int) -> int:
        """Position after the last sequence that the steps before ``step`` have begun."""
        return self.first_position + -(-(step - self.first_step) * self.batch_size // self.parts)


class BatchSchedule:
    """Maps steps to positions in the training order.

    Args:
        steps: Steps of the run; later steps have positions too.
        batch_size: Sequences per step.
        sequence_length: Positions per sequence.
        periods: Other sizes from certain steps on, in rising order. The longest length includes periods that the run
            never reaches, so a shortened run sees the same data.
        repeats: Rows of a step that one sequence of the source has, one after the other, such as the answers to a
            prompt. The part of a row is then its number among them.
        begins: A step (counted from 0) and the position of its first sequence, for a run that begins there. Default:
            step 0 at position 0. Earlier steps are counted back from it.
    """

    def __init__(
        self,
        *,
        steps: int,
        batch_size: int,
        sequence_length: int,
        periods: Sequence[BatchScheduleEntry] = (),
        repeats: int = 1,
        begins: tuple[int, int] | None = None,
    ) -> None:
        self.steps = steps
        sizes = _sizes(batch_size, sequence_length, periods)
        self.longest = max(length for _, _, length in sizes)
        """Positions of the run's longest sequence."""
        built: list[Period] = []
        for first_step, batch, length in sizes:
            parts, rest = divmod(self.longest, length)
            if rest:
                raise ValueError(f"a sequence length of {length} does not divide the longest one, {self.longest}")
            first_position = built[-1].positions_before(first_step) if built else 0
            built.append(Period(first_step, first_position, batch, length, parts * repeats))
        if begins is not None:
            built = _beginning(built, *begins)
        self.periods: tuple[Period, ...] = tuple(built)
        """All periods; the first begins at step 0."""
        self._first_steps = [period.first_step for period in built]
        self._tokens = [0]
        for period, following in pairwise(built):
            steps_of_stage = following.first_step - period.first_step
            self._tokens.append(self._tokens[-1] + steps_of_stage * period.batch_size * period.sequence_length)

    def period_of(self, step: int) -> Period:
        """The period that contains a step (counted from 0)."""
        return self.periods[self._number(step)]

    def batch_size(self, step: int) -> int:
        """Number of sequences of a step."""
        return self.period_of(step).batch_size

    def sequence_length(self, step: int) -> int:
        """Positions per sequence of a step."""
        return self.period_of(step).sequence_length

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of a step: positions in the training order, int64 [B], and the number of the part of each
        sequence, int32 [B].
        """
        period = self.period_of(step)
        first = (step - period.first_step) * period.batch_size
        units = np.arange(first, first + period.batch_size, dtype=np.int64)
        sequences, parts = np.divmod(units, period.parts)
        return period.first_position + sequences, parts.astype(np.int32)

    def positions_before(self, step: int) -> int:
        """Number of positions begun before a step. A change at this step takes effect from this position on."""
        return self.period_of(step).positions_before(step)

    def tokens_before(self, step: int) -> int:
        """Tokens of all sequences of the steps before ``step``, padding included."""
        number = self._number(step)
        period = self.periods[number]
        return self._tokens[number] + (step - period.first_step) * period.batch_size * period.sequence_length

    def steps_within(self, positions: int, *, partial: bool) -> int:
        """Number of steps that the first ``positions`` positions suffice for.

        A last step that is not full counts if ``partial``.
        """
        if partial:
            return bisect_left(range(_MAX_STEPS), positions, key=self._first_position)
        return bisect_right(range(_MAX_STEPS), positions, key=self.positions_before) - 1

    def steps_for(self, positions: int) -> int:
        """Least number of steps that begin the first ``positions`` positions."""
        return bisect_left(range(_MAX_STEPS), positions, key=self.positions_before)

    def _first_position(self, step: int) -> int:
        period = self.period_of(step)
        return period.first_position + (step - period.first_step) * period.batch_size // period.parts

    def _number(self, step: int) -> int:
        if step < 0:
            raise IndexError("a step is below 0")
        return bisect_right(self._first_steps, step) - 1


def build_schedule(spec: TrainerSpec, repeats: int = 1, begins: tuple[int, int] | None = None) -> BatchSchedule:
    """The batch schedule of ``spec.trainer``. `halcyon_api.validation` rejects lengths that do not divide the longest
    one before this.

    Args:
        spec: The section.
        repeats: See `BatchSchedule`. It decides the positions of a step, not its sizes.
        begins: See `BatchSchedule`. It decides the positions of a step, not its sizes.
    """
    return BatchSchedule(
        steps=spec.steps,
        batch_size=spec.batch_size,
        sequence_length=spec.sequence_length,
        periods=spec.batch_schedule,
        repeats=repeats,
        begins=begins,
    )


def _beginning(periods: Sequence[Period], step: int, position: int) -> list[Period]:
    """The periods with a new one at a step, whose first sequence is at a position. The others keep their distances."""
    number = bisect_right([period.first_step for period in periods], step) - 1
    shift = position - periods[number].positions_before(step)
    before = [period for period in periods[: number + 1] if period.first_step < step]
    moved = [replace(period, first_position=period.first_position + shift) for period in before]
    moved.append(replace(periods[number], first_step=step, first_position=position))
    for period in periods[number + 1 :]:
        moved.append(replace(period, first_position=moved[-1].positions_before(period.first_step)))
    return moved


def _sizes(batch_size: int, sequence_length: int, periods: Sequence[BatchScheduleEntry]) -> list[tuple[int, int, int]]:
    """First step, batch size and sequence length of each period."""
    sizes = [(0, batch_size, sequence_length)]
    for period in periods:
        sizes.append((period.from_step, period.batch_size or sizes[-1][1], period.sequence_length or sizes[-1][2]))
    return sizes
