"""The files of a history: what is read is what was written, damage is found, and a killed merge loses and repeats
nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.segments import (
    DamagedSegment,
    SegmentName,
    encode_row,
    encode_segment,
    live,
    parse_name,
    read_segment,
)
from tests.trainer.telemetry.history.rows import group, steps

NAME = SegmentName(3, 10, 1, 2, "c0ffee")


def test_a_segment_holds_the_rows_of_its_groups_with_all_bits() -> None:
    loss = float(np.float32(2.3716983795166016))
    rows = [
        encode_row(
            Row(
                "step",
                1.23456,
                {"step": 7, "loss": loss, "gradient_norm": math.inf, "learning_rate": None, "x": np.float32(1)},
            )
        )
    ]
    again, _ = read_segment(NAME.key, encode_segment(NAME, {group(2): rows, group(1): steps(1, 3)}))
    assert list(again) == [group(1), group(2)]
    assert again[group(2)] == [
        {"event": "step", "time": 1.235, "step": 7, "loss": loss, "gradientNorm": "Infinity", "x": 1.0}
    ]


def test_every_changed_byte_and_every_cut_is_found() -> None:
    whole = encode_segment(NAME, {group(): steps(1, 20)})
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        try:
            same = read_segment(NAME.key, bytes(changed)) == read_segment(NAME.key, whole)
        except DamagedSegment:
            same = True
        assert same, f"byte {place} was changed, and other rows were read"
        with pytest.raises(DamagedSegment, match="metrics/000000003"):
            read_segment(NAME.key, whole[:place])
    with pytest.raises(DamagedSegment, match="is missing"):
        read_segment(NAME.key, None)


def test_names_sort_by_time_and_other_keys_are_no_segments() -> None:
    assert NAME.key == "metrics/000000003-000000010.1.000002.c0ffee.jsonl.zst"
    assert parse_name(NAME.key) == NAME
    assert parse_name("metrics/notes.txt") is None
    assert parse_name(f"{NAME.key}_0123.__lock") is None


def test_the_sources_of_a_merge_that_was_killed_before_it_deleted_them_do_not_count() -> None:
    sources = [SegmentName(number, number, 0, 1, "a") for number in range(1, 9)]
    merge, later = SegmentName(1, 8, 1, 1, "a"), SegmentName(9, 9, 0, 1, "a")
    assert live([*sources, merge, later]) == [merge, later]
    # Two writers used one number, and one of them has lost the root: both count until a merge covers them.
    stray = SegmentName(9, 9, 0, 2, "b")
    assert live([later, stray]) == [later, stray]
    # The same merge by two writers counts once.
    assert live([merge, SegmentName(1, 8, 1, 2, "b")]) == [SegmentName(1, 8, 1, 2, "b")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"event": "saved", "time": "yesterday"}, "time"),
        ({"event": "saved", "time": 1e300}, "time"),
        ({"event": "saved"}, "time"),
        ({"event": ["saved"], "time": 1.0}, "event"),
        ({"event": "step", "time": 1.0, "step": "seven"}, "step"),
        ({"event": "step", "time": 1.0, "step": 7, "tokensPerSecond": "fast"}, "tokensPerSecond"),
        ({"event": "rolledBack", "time": 1.0, "step": 7}, "toStep"),
        ({"event": "evaluation", "time": 1.0, "step": 7, "source": {"a": 1}}, "source"),
        ({"event": "goodput", "time": 1.0, "step": 7, "seconds": {"productiveStep": "many"}}, "seconds"),
        ({"event": "group"}, "number"),
        ([], "a row"),
    ],
)
def test_a_row_with_a_value_of_a_wrong_type_is_damage(row: Any, field: str) -> None:
    """A root of a stranger has the right hashes, whatever its rows are."""
    data = encode_segment(NAME, {group(): [row]})
    with pytest.raises(DamagedSegment, match=rf"^metrics/.* is damaged \({field} is missing or has a wrong type\)$"):
        read_segment(NAME.key, data)


@pytest.mark.parametrize(
    ("name", "value"), [("began", "yesterday"), ("steps", -1), ("run", 7), ("run", "a\x1b[2J"), ("run", "a" * 1000)]
)
def test_a_process_group_with_a_value_of_a_wrong_type_is_damage(name: str, value: Any) -> None:
    data = encode_segment(NAME, {replace(group(), **{name: value}): []})
    with pytest.raises(DamagedSegment, match=rf"is damaged \({name} is missing or has a wrong type\)$"):
        read_segment(NAME.key, data)
