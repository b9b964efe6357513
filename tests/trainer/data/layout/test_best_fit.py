"""Best fit fills every sequence, starts each with the beginning of a document, and reports how much it cropped."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.packer import DocumentPacker
from halcyon.data.layout.spans import arrays_of
from halcyon_api.spec.sources import BestFitSpec, LayoutSpec
from tests.trainer.data.layout.documents import UNWEIGHTED, contents, ends_of, some_lengths


def fitted_one_by_one(lengths: list[int], capacity: int, buffer: int) -> list[list[range]]:
    """The definition, written without any optimisation."""
    ends = np.cumsum(lengths).tolist()
    coming = [range(end - length, end) for end, length in zip(ends, lengths, strict=True) if length]
    held: list[range] = []
    sequences: list[list[range]] = []
    while True:
        sequence: list[range] = []
        missing = capacity
        while missing:
            while coming and len(held) < buffer:
                held.append(coming.pop(0))
            if not held:
                return sequences
            fitting = [span for span in held if len(span) <= missing]
            best = max(fitting, key=len) if fitting else min(held, key=len)  # the first of equal ones
            held.remove(best)
            sequence.append(best[:missing])
            missing -= len(sequence[-1])
        sequences.append(sequence)


@settings(deadline=None)
@given(some_lengths, st.integers(1, 24), st.integers(1, 20))
def test_best_fit_equals_a_plain_implementation_of_its_description(
    lengths: list[int], length: int, buffer: int
) -> None:
    layout = BestFit.build(ends_of(lengths), length, buffer=buffer)
    expected = fitted_one_by_one(lengths, length + 1, buffer)
    assert contents(layout) == expected
    report = layout.report
    assert report.padding == 0
    assert report.used == len(expected) * (length + 1)
    whole = {begin: size for begin, size in zip((np.cumsum(lengths) - lengths).tolist(), lengths, strict=True) if size}
    assert report.cropped == sum(whole[span.start] - len(span) for sequence in expected for span in sequence)
    assert report.used + report.cropped + report.dropped == sum(lengths)


def test_a_larger_buffer_crops_less_and_the_cropped_share_is_reported() -> None:
    lengths = np.minimum(np.random.default_rng(3).lognormal(6, 1.2, 20_000).astype(np.int64) + 2, 20_000)
    shares = [BestFit.build(np.cumsum(lengths), 2048, buffer=buffer).report.cropped_share for buffer in (1, 30, 1000)]
    assert shares[0] > shares[1] > shares[2]
    capped = (
        np.maximum(lengths - 2049, 0).sum() / lengths.sum()
    )  # the tokens that no layout of full sequences could keep
    assert shares[2] < capped + 0.1


def test_a_layout_is_rebuilt_from_its_arrays_and_never_changes() -> None:
    ends = ends_of(np.random.default_rng(0).integers(1, 50, 500).tolist())
    spec = LayoutSpec(best_fit=BestFitSpec(buffer=20))
    packer = DocumentPacker(spec, "any")
    layout = packer.build(ends, UNWEIGHTED, 32)
    again = packer.make(**arrays_of(layout), document_ends=ends, sequence_length=32)
    assert contents(again) == contents(layout)
    assert (again.sequences, again.report) == (layout.sequences, layout.report)
    assert arrays_of(layout)["documents"].dtype == np.uint32
    assert layout.spans(np.array([100, 7])).start.tolist() == GOLDEN


GOLDEN = [5460, 4528, 434, 889, 918]
