"""Packing does not split documents, keeps their order, and uses as few sequences as this order allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.layout import pack
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.packer import DocumentPacker
from halcyon.data.layout.spans import arrays_of
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import LayoutSpec, PackSpec
from tests.trainer.data.layout.documents import UNWEIGHTED, contents, ends_of, some_lengths


def packed_one_by_one(lengths: list[int], capacity: int, max_segments: int, too_long: str) -> list[list[range]]:
    """The definition, written without any optimisation."""
    sequences: list[list[range]] = []
    room = segments = 0
    begin = 0
    for length in lengths:
        kept = range(begin, begin + length)
        begin += length
        if length > capacity:
            kept = {"left": kept[:capacity], "right": kept[-capacity:], "drop": range(0)}[too_long]
        if not kept:
            continue
        if not sequences or len(kept) > room or segments == max_segments:
            sequences.append([])
            room, segments = capacity, 0
        sequences[-1].append(kept)
        room -= len(kept)
        segments += 1
    return sequences


@settings(deadline=None)
@given(
    some_lengths,
    st.integers(1, 24),
    st.integers(1, 5),
    st.sampled_from(["left", "right", "drop"]),
    st.sampled_from([1, 3, 7, 1000]),
)
def test_packing_equals_a_plain_implementation_of_its_description(
    lengths: list[int], length: int, max_segments: int, too_long: Any, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "_CHUNK_DOCUMENTS", chunk)
        layout = Pack.build(ends_of(lengths), length, max_segments=max_segments, too_long=too_long)
        expected = packed_one_by_one(lengths, length + 1, max_segments, too_long)
        assert contents(layout) == expected
        used = sum(len(span) for sequence in expected for span in sequence)
        report = layout.report
        assert (report.sequences, report.used) == (len(expected), used)
        assert report.used + report.cropped + report.dropped == sum(lengths)
        assert report.used + report.padding == len(expected) * (length + 1)
        if too_long == "drop":
            assert report.cropped == 0
        else:
            assert report.dropped == 0


def test_a_document_too_long_is_cut_dropped_or_refused_as_asked() -> None:
    ends = ends_of([3, 9, 2])
    held = {way: contents(Pack.build(ends, 5, max_segments=9, too_long=way)) for way in ("left", "right", "drop")}
    assert held["left"] == [[range(3)], [range(3, 9)], [range(12, 14)]]
    assert held["right"] == [[range(3)], [range(6, 12)], [range(12, 14)]]
    assert held["drop"] == [[range(3), range(12, 14)]]
    spec = LayoutSpec(pack=PackSpec(too_long="raise"))
    with pytest.raises(BadConfiguration) as refused:
        DocumentPacker(spec, "mail").build(ends, UNWEIGHTED, 5)
    assert str(refused.value) == (
        "spec.data.sources[mail].layout.pack.tooLong: document 1 has 9 tokens and a sequence holds 6; "
        "raise spec.trainer.sequenceLength, or set left, right or drop"
    )


def test_a_layout_is_rebuilt_from_its_arrays() -> None:
    ends = ends_of(np.random.default_rng(0).integers(1, 50, 500).tolist())
    spec = LayoutSpec(pack=PackSpec(max_segments=4, too_long="right"))
    packer = DocumentPacker(spec, "any")
    layout = packer.build(ends, UNWEIGHTED, 32)
    again = packer.make(**arrays_of(layout), document_ends=ends, sequence_length=32)
    assert contents(again) == contents(layout)
    assert (again.sequences, again.report) == (layout.sequences, layout.report)
    assert sum(array.nbytes for array in arrays_of(layout).values()) == 8 * (layout.sequences + 1)
