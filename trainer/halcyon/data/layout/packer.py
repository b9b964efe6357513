"""Packers: one for each way in which documents become sequences, chosen by the objective and
``spec.data.sources[].layout``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from halcyon.data.layout.beside import Beside, BesidePacker, Images, Sounds
from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.prompts import Labelled, LabelPacker, PromptPacker, Prompts
from halcyon.data.layout.spans import Weights
from halcyon.data.layout.whole import WholePacker, WholeUnits
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import DataSourceSpec, LayoutSpec
from halcyon_api.training_run import TrainingRunSpec

_PAIR_BUFFER = 1000
"""Number of pairs to choose the best fit from, where a row may hold several."""
TOO_SHORT = "its text is too short for one sequence; give it more text"
"""What is wrong with a source of text without a sequence."""


@dataclass(frozen=True)
class DocumentPacker:
    """The layouts ``pack`` and ``bestFit``.

    Attributes:
        spec: The layout.
        source: Name of the source, for error messages.
    """

    spec: LayoutSpec
    source: str
    empty = TOO_SHORT
    """What is wrong with a source without a sequence, and the fix."""

    @property
    def key(self) -> list[Any]:
        """What decides the layout, besides documents and length of a sequence. Stored layouts are named by it."""
        return [2, self.spec.document()]

    def build(self, document_ends: np.ndarray, weights: Weights, sequence_length: int) -> Layout:
        """Lay out a source.

        Args:
            document_ends: End of each document in the source's token stream: int64 [documents], rising.
            weights: The loss weights of the stream.
            sequence_length: Positions of the run's longest sequence.

        Raises:
            BadConfiguration: A document does not fit.
        """
        if self.spec.best_fit is not None:
            return BestFit.build(document_ends, sequence_length, buffer=self.spec.best_fit.buffer)
        pack = self.spec.pack
        assert pack is not None  # noqa: S101 - documents that are concatenated need no packer
        try:
            return Pack.build(document_ends, sequence_length, max_segments=pack.max_segments, too_long=pack.too_long)
        except ValueError as error:
            raise BadConfiguration(
                f"spec.data.sources[{self.source}].layout.pack.tooLong: {error}; raise spec.trainer.sequenceLength, or "
                "set left, right or drop"
            ) from error

    @property
    def make(self) -> Callable[..., Layout]:
        """Makes a layout again from its arrays, with the same documents and length."""
        return BestFit if self.spec.pack is None else partial(Pack, too_long=self.spec.pack.too_long)


Layout = Concatenate | BestFit | Pack | WholeUnits | Prompts | Beside | Labelled
"""A map from sequences to spans of a source's token stream."""
Packer = DocumentPacker | WholePacker | PromptPacker | BesidePacker | LabelPacker
"""Makes the layout of a source from its documents, which takes time, or from the arrays of the layout."""


def packer_of(spec: TrainingRunSpec, source: DataSourceSpec) -> Packer | None:
    """The packer of a source; None: its documents are concatenated, which is a formula."""
    objective = spec.objective
    if (pair := source.format.pair) is not None:
        return WholePacker(pair.texts, 1, 1)
    if spec.model.sound is not None:
        return BesidePacker(Sounds(*spec.model.sound))
    if source.format.chat is not None and spec.model.sight is not None:
        return BesidePacker(Images(spec.model.sight))
    if (policy := objective.policy) is not None:
        return PromptPacker(policy.max_tokens, source.on_bad_row == "skip")
    if objective.classify is not None:
        return LabelPacker(spec.model.classes, source.name)
    if (finetune := objective.finetune) is not None:
        return WholePacker(1, None, finetune.buffer)
    if (preference := objective.preference) is not None:
        # A row of one pair has no fit to choose, so the pairs keep their order.
        return WholePacker(2, preference.pairs_per_row, 1 if preference.pairs_per_row == 1 else _PAIR_BUFFER)
    return DocumentPacker(source.layout, source.name) if source.layout.concatenate is None else None
