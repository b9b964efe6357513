"""A schedule gives each step its sequences by a formula and each sequence its step; it skips sequences only at the end
of a stage.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.batch_schedule import BatchSchedule, build_schedule
from halcyon_api.spec.trainer import BatchScheduleEntry, TrainerSpec
from halcyon_api.validation import find_problems
from tests.trainer.data.cache.runs import spec_of

LONGEST = 24


@st.composite
def schedules(draw: st.DrawFn) -> BatchSchedule:
    sizes = st.tuples(st.integers(1, 7), st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
    rising = sorted(draw(st.sets(st.integers(1, 30), max_size=4)))
    changes = [draw(sizes) for _ in rising]
    stages = [
        BatchScheduleEntry(from_step=step, batch_size=size, sequence_length=LONGEST // parts)
        for step, (size, parts) in zip(rising, changes, strict=True)
    ]
    stages.append(BatchScheduleEntry(from_step=35, sequence_length=LONGEST))  # all others divide it
    size, parts = draw(sizes)
    return BatchSchedule(steps=40, batch_size=size, sequence_length=LONGEST // parts, periods=stages)


@settings(deadline=None)
@given(schedules())
def test_steps_follow_one_another_without_gap_or_overlap(schedule: BatchSchedule) -> None:
    """Step by step, all parts of all sequences come in order; a stage starts with a new sequence."""
    position = part = tokens = 0
    for step in range(40):
        stage = schedule.period_of(step)
        if step == stage.first_step and part:
            position, part = position + 1, 0
        assert schedule.positions_before(step) == position + (part > 0)
        assert schedule.tokens_before(step) == tokens
        positions, parts = schedule.positions(step)
        assert positions.dtype == np.int64
        assert parts.dtype == np.int32
        assert len(positions) == len(parts) == schedule.batch_size(step)
        for taken in zip(positions.tolist(), parts.tolist(), strict=True):
            assert taken == (position, part)
            part += 1
            if part == schedule.longest // schedule.sequence_length(step):
                position, part = position + 1, 0
        tokens += schedule.batch_size(step) * schedule.sequence_length(step)


@settings(deadline=None)
@given(schedules(), st.integers(0, 60), st.booleans())
def test_steps_within_a_number_of_sequences(schedule: BatchSchedule, limit: int, partial: bool) -> None:
    steps = schedule.steps_within(limit, partial=partial)
    fits = (
        (lambda step: schedule.positions(step)[0].min() < limit)
        if partial
        else (lambda step: schedule.positions(step)[0].max() < limit)
    )
    assert all(fits(step) for step in range(steps))
    assert not fits(steps)


def test_a_stage_that_begins_inside_a_sequence_skips_the_rest_of_it() -> None:
    schedule = BatchSchedule(
        steps=10,
        batch_size=3,
        sequence_length=4,
        periods=[BatchScheduleEntry(from_step=1, batch_size=2, sequence_length=8)],
    )
    assert [array.tolist() for array in schedule.positions(0)] == [[0, 0, 1], [0, 1, 0]]
    assert [array.tolist() for array in schedule.positions(1)] == [[2, 3], [0, 0]]


def test_a_stage_keeps_the_values_that_it_does_not_set() -> None:
    schedule = build_schedule(
        TrainerSpec(
            steps=100,
            batch_size=4,
            sequence_length=16,
            batch_schedule=[
                BatchScheduleEntry(from_step=10, batch_size=8),
                BatchScheduleEntry(from_step=200, sequence_length=64),
            ],
        )
    )
    assert [(schedule.batch_size(step), schedule.sequence_length(step)) for step in (0, 9, 10, 99, 200)] == [
        (4, 16),
        (4, 16),
        (8, 16),
        (8, 16),
        (8, 64),
    ]
    assert schedule.longest == 64  # the run ends before this stage, and sees the same data as a longer run


def test_the_number_of_steps_does_not_move_any_data() -> None:
    stages = [BatchScheduleEntry(from_step=50, sequence_length=32)]
    short, long = (BatchSchedule(steps=steps, batch_size=5, sequence_length=8, periods=stages) for steps in (20, 1000))
    for step in (0, 19, 49, 50, 500):
        assert [array.tolist() for array in short.positions(step)] == [array.tolist() for array in long.positions(step)]


def test_lengths_that_do_not_divide_are_reported_by_field() -> None:
    spec = TrainerSpec(
        steps=10,
        batch_size=1,
        sequence_length=48,
        batch_schedule=[
            BatchScheduleEntry(from_step=2, batch_size=2),
            BatchScheduleEntry(from_step=3, sequence_length=50),
            BatchScheduleEntry(from_step=5, sequence_length=64),
            BatchScheduleEntry(from_step=7, sequence_length=32),
        ],
    )
    run = spec_of("file:///nowhere", [{"name": "source", "stdlib": {}}], trainer=spec.document())
    assert [str(problem) for problem in find_problems(run)] == [
        "spec.trainer.sequenceLength: 48 does not divide 64, the longest sequence of the run; choose a length that "
        "does",
        "spec.trainer.batchSchedule[1].sequenceLength: 50 does not divide 64, the longest sequence of the run; choose "
        "a length that does",
    ]
    with pytest.raises(ValueError, match="48 does not divide the longest one, 64"):
        build_schedule(spec)


def test_a_position_out_of_range_is_an_error() -> None:
    schedule = BatchSchedule(steps=1, batch_size=1, sequence_length=2)
    with pytest.raises(IndexError):
        schedule.positions(-1)


def test_the_tokens_of_a_run_are_those_of_its_schedule() -> None:
    stages = [
        BatchScheduleEntry(from_step=10, batch_size=8),
        BatchScheduleEntry(from_step=25, sequence_length=64),
        BatchScheduleEntry(from_step=90),
    ]
    for steps in (5, 10, 11, 25, 60, 100):
        spec = TrainerSpec(steps=steps, batch_size=4, sequence_length=32, batch_schedule=stages)
        assert spec.tokens == build_schedule(spec).tokens_before(steps)


def test_a_run_may_begin_at_another_position_of_the_order() -> None:
    stages = [BatchScheduleEntry(from_step=10, batch_size=6), BatchScheduleEntry(from_step=30, batch_size=8)]
    usual = BatchSchedule(steps=40, batch_size=4, sequence_length=8, periods=stages)
    for step, position in ((5, 0), (10, 0), (20, 37), (35, 9)):
        found = BatchSchedule(steps=40, batch_size=4, sequence_length=8, periods=stages, begins=(step, position))
        shift = position - usual.positions_before(step)
        for later in range(step, 40):
            assert found.positions(later)[0].tolist() == [one + shift for one in usual.positions(later)[0].tolist()]
            assert found.tokens_before(later) == usual.tokens_before(later)
        assert found.positions_before(0) == shift
        assert found.steps_within(found.positions_before(38), partial=False) == 38


def test_a_run_begins_with_a_whole_sequence() -> None:
    halves = [BatchScheduleEntry(from_step=30, sequence_length=8)]
    found = BatchSchedule(steps=40, batch_size=1, sequence_length=4, periods=halves, begins=(3, 0))
    assert [(found.positions(step)[0][0], found.positions(step)[1][0]) for step in (3, 4, 5)] == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]
