"""The layout of ``spec.data.sources[].layout``: built from the documents of a source, or loaded from stored arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.report import LayoutReport
from halcyon.data.layout.spans import Spans
from halcyon.errors import BadConfiguration
from halcyon_api.spec.sources import LayoutSpec


class Layout(Protocol):
    """A map from sequences to spans of a source's token stream."""

    sequence_length: int
    """Positions per sequence; a sequence holds one token more."""
    sequences: int
    """Sequences of the source, held-out ones included."""
    spans_are_documents: bool
    """Whether each span is one document, or a part of it. Otherwise a span may hold several."""

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens."""
        ...

    def spans(self, indices: np.ndarray) -> Spans:
        """Spans that fill the sequences at ``indices`` (integers [n], 0 to ``sequences - 1``), in the order of ``indices``."""
        ...

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays from which `load_layout` makes the layout again."""
        ...


def build_layout(spec: LayoutSpec, document_ends: np.ndarray, *, sequence_length: int, source: str) -> Layout:
    """Lay out a source.

    Args:
        spec: The layout's spec.
        document_ends: End of each document in the source's token stream: int64 [documents], rising.
        sequence_length: Positions of the run's longest sequence.
        source: Name of the source, for error messages.

    Raises:
        BadConfiguration: A document is longer than a sequence and `tooLong` is `raise`.
    """
    if pack := spec.pack:
        try:
            return Pack.build(document_ends, sequence_length, max_segments=pack.max_segments, too_long=pack.too_long)
        except ValueError as error:
            raise BadConfiguration(
                f"spec.data.sources[{source}].layout.pack.tooLong: {error}; raise spec.trainer.sequenceLength, or set left, right or drop"
            ) from error
    if spec.best_fit:
        return BestFit.build(document_ends, sequence_length, buffer=spec.best_fit.buffer)
    return Concatenate(int(document_ends[-1]) if len(document_ends) else 0, sequence_length)


def load_layout(spec: LayoutSpec, document_ends: np.ndarray, *, sequence_length: int, arrays: Mapping[str, np.ndarray]) -> Layout:
    """Make a layout from the arrays of `Layout.to_arrays`, with the same documents, length and spec."""
    if spec.pack:
        return Pack(arrays["first_documents"], document_ends, sequence_length, spec.pack.too_long)
    if spec.best_fit:
        return BestFit(arrays["documents"], arrays["first_pieces"], document_ends, sequence_length)
    return Concatenate(int(document_ends[-1]) if len(document_ends) else 0, sequence_length)
