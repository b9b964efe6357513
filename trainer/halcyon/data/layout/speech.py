"""The layout of texts with sounds: each sequence is one text, whole. A text longer than a sequence is left out.

`halcyon.data.formats.speech` says what a document is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from halcyon.data.layout.spans import LayoutReport, OneEach, Spans, Tokens, document_spans
from halcyon.data.sound import SAMPLE, log_mel

HEADER = 2
"""Numbers before the tokens of a document: those of its prompt, and those of its text with the prompt."""


@dataclass(frozen=True)
class SpeechPacker:
    """One text in each sequence. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        frames: Frames of a sound that the model hears.
        bands: Features of a frame.
    """

    frames: int
    bands: int
    empty = "it has no text that fits into a sequence; give shorter texts, or raise spec.trainer.sequenceLength"

    @property
    def key(self) -> list[Any]:
        """See `DocumentPacker`. Frames and bands decide no address."""
        return [1, "speech"]

    def build(self, document_ends: np.ndarray, weights: Tokens, sequence_length: int) -> Speech:
        """See `DocumentPacker`."""
        starts, _ = document_spans(document_ends, np.arange(len(document_ends)))
        headers = weights.gather(starts, np.full(len(starts), HEADER)).reshape(-1, HEADER).astype(np.int64)
        kept = np.flatnonzero(headers[:, 1] <= sequence_length + 1)
        arrays = {"prompts": headers[:, 0].copy(), "texts": headers[:, 1].copy(), "kept": kept}
        return self.load(document_ends, arrays, sequence_length)

    def load(self, document_ends: np.ndarray, arrays: Mapping[str, np.ndarray], sequence_length: int) -> Speech:
        """See `DocumentPacker`."""
        return Speech(
            **arrays,
            document_ends=document_ends,
            sequence_length=sequence_length,
            frames=self.frames,
            bands=self.bands,
        )


@dataclass(frozen=True, eq=False)
class Speech(OneEach):
    """One text in each sequence.

    Attributes:
        prompts: Tokens of the prompt of each document: int64 [documents].
        texts: Tokens of its text, prompt included: int64 [documents].
        frames: See `SpeechPacker`.
        bands: See `SpeechPacker`.
    """

    prompts: np.ndarray
    texts: np.ndarray
    frames: int
    bands: int

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens of the texts; samples are none."""
        reason = "because they are longer than a sequence; raise spec.trainer.sequenceLength to keep them"
        return LayoutReport.of_units(self.texts, self.kept, self.sequence_length, "text", reason)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the text."""
        numbers, starts, _ = self.documents(indices)
        return Spans(np.arange(len(starts), dtype=np.int32), starts + HEADER, self.texts[numbers].astype(np.int32))

    def counted(self, indices: np.ndarray) -> np.ndarray:
        """The loss weights of the tokens of these texts, concatenated: 0 for a prompt, else 1."""
        numbers, _, _ = self.documents(indices)
        parts = zip(self.prompts[numbers].tolist(), self.texts[numbers].tolist(), strict=True)
        return np.concatenate([np.arange(text) >= prompt for prompt, text in parts] or [np.empty(0, bool)])

    def sounds(self, tokens: Tokens, indices: np.ndarray) -> np.ndarray:
        """The features of the sounds of these texts: float32 [n, frames, bands]."""
        numbers, starts, lengths = self.documents(indices)
        before = HEADER + self.texts[numbers]
        flat = tokens.gather(starts + before, lengths - before).astype(np.uint16).view(SAMPLE)
        each = np.split(flat, np.cumsum(lengths - before)[:-1]) if len(numbers) else []
        found = [log_mel(samples, self.bands, self.frames) for samples in each]
        return np.stack(found) if found else np.empty((0, self.frames, self.bands), np.float32)
