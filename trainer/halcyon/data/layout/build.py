"""The layout that ``spec.data.sources[].layout`` asks for: built from the documents of a source, or opened from what a cache kept."""

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
    """Positions of a sequence; it holds one token more."""
    sequences: int
    """Sequences of the source, held-out ones included."""

    @property
    def report(self) -> LayoutReport:
        """What became of the tokens."""
        ...

    def spans(self, indices: np.ndarray) -> Spans:
        """Spans that fill the sequences at ``indices``, 0 to ``sequences - 1``, one after the other: integers [n]."""
        ...

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """What has to be kept to open the layout again with `load_layout`."""
        ...


def build_layout(spec: LayoutSpec, document_ends: np.ndarray, *, sequence_length: int, source: str) -> Layout:
    """Lay out a source.

    Args:
        spec: The layout asked for.
        document_ends: End of each document in the source's token stream: int64 [documents], rising.
        sequence_length: Positions of the run's longest sequence.
        source: Name of the source, for the sentence of an error.

    Raises:
        BadConfiguration: A document is longer than a sequence and the layout is not to cut or drop it.
    """
    if pack := spec.pack:
        try:
            return Pack.build(document_ends, sequence_length, max_segments=pack.max_segments, too_long=pack.too_long)
        except ValueError as error:
            raise BadConfiguration(
                f"spec.data.sources[{source}].layout.pack.tooLong: {error}; raise spec.trainer.sequenceLength, or say left, right or drop"
            ) from error
    if spec.best_fit:
        return BestFit.build(document_ends, sequence_length, buffer=spec.best_fit.buffer)
    return Concatenate(int(document_ends[-1]) if len(document_ends) else 0, sequence_length)


def load_layout(spec: LayoutSpec, document_ends: np.ndarray, *, sequence_length: int, arrays: Mapping[str, np.ndarray]) -> Layout:
    """Open a layout from what `Layout.to_arrays` gave, for the same documents, length and spec."""
    if spec.pack:
        return Pack(arrays["first_documents"], document_ends, sequence_length, spec.pack.too_long)
    if spec.best_fit:
        return BestFit(arrays["documents"], arrays["first_pieces"], document_ends, sequence_length)
    return Concatenate(int(document_ends[-1]) if len(document_ends) else 0, sequence_length)
