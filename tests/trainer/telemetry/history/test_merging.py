"""The bounds of a history: few files and few rows after any number of steps, and no evaluation or event is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from halcyon.telemetry.history.merging import FAN_OUT, SAMPLES_KEPT, STEPS_KEPT, due, joined, merged, resolved
from halcyon.telemetry.history.segments import Groups, SegmentName
from tests.trainer.telemetry.history.rows import group, step, steps


def merged_run(flushes: int, steps_of_a_flush: int) -> dict[SegmentName, Groups]:
    """The segments of a run after some flushes, merged as the writer does."""
    files: dict[SegmentName, Groups] = {}
    for number in range(1, flushes + 1):
        first = (number - 1) * steps_of_a_flush + 1
        rows = [
            *steps(first, first + steps_of_a_flush - 1),
            {"event": "goodput", "time": 1.0, "step": first, "seconds": {}},
        ]
        if number % 10 == 0:
            rows.append({"event": "evaluation", "time": 1.0, "step": first, "loss": 1.0})
        last = number * steps_of_a_flush
        rows.append({"event": "sample", "time": 1.0, "step": last, "prompt": "a", "text": "b"})
        files[SegmentName(number, number, 0, 1, "a")] = {group(): rows}
        while sources := due(sorted(files, key=lambda name: name.order)):
            name = SegmentName(sources[0].first, sources[-1].last, sources[0].level + 1, 1, "a")
            files[name] = merged(files.pop(source) for source in sources)
    return files


def check_bounds(files: dict[SegmentName, Groups], flushes: int, last: int) -> None:
    names = sorted(files, key=lambda name: name.order)
    levels = 1 + max(name.level for name in names)
    assert len(names) <= (FAN_OUT - 1) * levels
    rows = joined(files[name] for name in names)[group()]
    done = [row["step"] for row in rows if row["event"] == "step"]
    assert done == sorted(set(done))
    assert done[-1] == last
    assert len(done) <= (STEPS_KEPT + FAN_OUT) * FAN_OUT * levels
    assert sum(row["event"] == "evaluation" for row in rows) == flushes // 10
    assert sum(row["event"] == "goodput" for row in rows) == 1
    texts = [row["step"] for row in rows if row["event"] == "sample"]
    assert SAMPLES_KEPT // 2 < len(texts) <= (SAMPLES_KEPT + FAN_OUT) * FAN_OUT * levels


def test_a_long_run_has_few_files_and_keeps_every_evaluation() -> None:
    check_bounds(merged_run(1200, 40), 1200, 48_000)


@pytest.mark.variant
def test_a_million_steps() -> None:
    check_bounds(merged_run(20_000, 50), 20_000, 1_000_000)


def test_a_merge_covers_the_segment_of_a_writer_that_used_a_number_twice() -> None:
    names = [SegmentName(number, number, 0, 1, "a") for number in range(1, 10)]
    stray = SegmentName(8, 8, 0, 2, "b")
    assert due(names[:7]) == []
    assert due([*names[:8], stray, names[8]]) == [*names[:8], stray]


def done(rows: Sequence[dict[str, object]]) -> list[object]:
    return [row["step"] for row in rows if row["event"] == "step"]


def test_steps_done_again_are_those_of_the_later_group() -> None:
    kept = resolved(
        {
            group(1): steps(1, 50, 1.0),
            group(2, resumed=40): steps(41, 45, 2.0),
            group(3, resumed=42): steps(43, 60, 3.0),
        }
    )
    assert [done(rows) for rows in kept.values()] == [list(range(1, 41)), [41, 42], list(range(43, 61))]


def test_a_return_to_an_older_step_inside_a_group_replaces_its_rows() -> None:
    kept = resolved({group(): [*steps(1, 20, 1.0), {"event": "warning", "time": 1.0}, *steps(11, 15, 2.0)]})
    assert [(row["step"], row["loss"]) for row in kept[group()] if row["event"] == "step"] == [
        *((number, 1.0) for number in range(1, 11)),
        *((number, 2.0) for number in range(11, 16)),
    ]
    assert sum(row["event"] == "warning" for row in kept[group()]) == 1


def test_what_a_writer_adds_after_it_lost_the_root_does_not_count() -> None:
    parts = [{group(1): steps(1, 30)}, {group(2, resumed=20): steps(21, 40)}, {group(1): [step(31), step(32)]}]
    assert [done(rows) for rows in merged(parts).values()] == [list(range(1, 21)), list(range(21, 41))]
