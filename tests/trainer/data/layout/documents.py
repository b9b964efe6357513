"""Small sets of documents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from halcyon.data.layout.packer import Layout, Packer, packer_of
from halcyon_api.spec.objective import ObjectiveSpec
from halcyon_api.spec.sources import DataSourceSpec


def ends_of(lengths: list[int]) -> np.ndarray:
    """The end of each document in the stream."""
    return np.cumsum(lengths, dtype=np.int64)


class Unweighted:
    """A stream in which every token counts."""

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> None:
        """No weights: all are 1."""


UNWEIGHTED = Unweighted()


def packer_for(objective: dict[str, Any], layout: dict[str, Any] | None = None) -> Packer | None:
    """The packer of a source of texts, for an objective and a layout of a run document."""
    run: Any = SimpleNamespace(
        objective=ObjectiveSpec.model_validate(objective), model=SimpleNamespace(sound=None, sight=None)
    )
    source = {"name": "web", "text": {"paths": ["/a"]}, "layout": layout or {"concatenate": {}}}
    return packer_of(run, DataSourceSpec.model_validate(source))


def contents(layout: Layout) -> list[list[range]]:
    """The ranges of the stream that each sequence holds, in order."""
    spans = layout.spans(np.arange(layout.sequences))
    held: list[list[range]] = [[] for _ in range(layout.sequences)]
    for sequence, start, length in zip(
        spans.sequence.tolist(), spans.start.tolist(), spans.length.tolist(), strict=True
    ):
        held[sequence].append(range(start, start + length))
    return held


some_lengths = st.lists(st.integers(0, 40), max_size=60)
