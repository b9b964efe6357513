"""The layout of texts with a sound or images beside them: each sequence is one text, whole. A text longer than a
sequence is left out.

`halcyon.data.formats.speech` and `halcyon.data.formats.images` say what a document is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from halcyon.data.layout.spans import LayoutReport, OneEach, Spans, Tokens, document_spans
from halcyon.data.sound import SAMPLE, log_mel
from halcyon_api.spec.model_shape import COLOURS, ImageShape

HEADER = 2
"""Numbers before the tokens of a document: the tokens of its prompt, or its images; and the tokens of its text, prompt
included."""


@dataclass(frozen=True)
class Sounds:
    """A sound beside each text.

    Attributes:
        frames: Frames of a sound that the model hears.
        bands: Features of a frame.
    """

    frames: int
    bands: int
    name = "sound"

    @property
    def dtype(self) -> np.dtype:
        """The type of one text's part of `Examples`, with its shape."""
        return np.dtype((np.float32, (self.frames, self.bands)))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """The features of a sound: float32 [frames, bands].

        Args:
            numbers: The samples, as unsigned numbers of 16 bits.
        """
        return log_mel(numbers.astype(np.uint16).view(SAMPLE), self.bands, self.frames)


@dataclass(frozen=True)
class Images:
    """Images beside each text.

    Attributes:
        shape: Their shape.
    """

    shape: ImageShape
    name = "images"

    @property
    def dtype(self) -> np.dtype:
        """See `Sounds.dtype`."""
        side = self.shape.image_size
        return np.dtype((np.uint8, (self.shape.images, side, side, COLOURS)))

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """The pixels of some images, and zeros for those that are missing: uint8 [image, row, column, colour].

        Args:
            numbers: The pixels, two in each number of 16 bits.
        """
        found = np.zeros(self.dtype.shape, np.uint8)
        flat = numbers.astype("<u2").view(np.uint8)
        found.reshape(-1)[: len(flat)] = flat
        return found


@dataclass(frozen=True)
class BesidePacker:
    """One text in each sequence. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        reader: Reads what stands beside a text.
    """

    reader: Sounds | Images
    key = (2, "beside")
    """See `DocumentPacker`. The reader's sizes decide no address."""
    empty = "it has no text that fits into a sequence; give shorter texts, or raise spec.trainer.sequenceLength"

    def build(self, document_ends: np.ndarray, weights: Tokens, sequence_length: int) -> Beside:
        """See `DocumentPacker`."""
        starts, _ = document_spans(document_ends, np.arange(len(document_ends)))
        headers = weights.gather(starts, np.full(len(starts), HEADER)).reshape(-1, HEADER).astype(np.int64)
        kept = np.flatnonzero(headers[:, 1] <= sequence_length + 1)
        firsts, texts = headers.T.copy()
        return Beside(kept, document_ends, sequence_length, firsts, texts, self.reader)

    @property
    def make(self) -> Callable[..., Beside]:
        """See `DocumentPacker`."""
        return partial(Beside, reader=self.reader)


@dataclass(frozen=True, eq=False)
class Beside(OneEach):
    """One text in each sequence.

    Attributes:
        firsts: Tokens of the prompt of each document, or its images: int64 [documents].
        texts: Tokens of its text, prompt included: int64 [documents].
        reader: See `BesidePacker`.
    """

    firsts: np.ndarray
    texts: np.ndarray
    reader: Sounds | Images

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens of the texts; samples and pixels are none."""
        reason = "because they are longer than a sequence; raise spec.trainer.sequenceLength to keep them"
        return LayoutReport.of_units(self.texts, self.kept, self.sequence_length, "text", reason)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the text."""
        numbers, starts, _ = self.documents(indices)
        return Spans(np.arange(len(starts), dtype=np.int32), starts + HEADER, self.texts[numbers].astype(np.int32))

    def counted(self, indices: np.ndarray) -> np.ndarray:
        """The loss weights of the tokens of texts with sounds, concatenated: 0 for a prompt, else 1."""
        numbers, _, _ = self.documents(indices)
        parts = zip(self.firsts[numbers].tolist(), self.texts[numbers].tolist(), strict=True)
        return np.concatenate([np.arange(text) >= prompt for prompt, text in parts] or [np.empty(0, bool)])

    def read(self, tokens: Tokens, indices: np.ndarray) -> np.ndarray:
        """What stands beside these texts: [n, ...]; see `Sounds.dtype`."""
        numbers, starts, lengths = self.documents(indices)
        before = HEADER + self.texts[numbers]
        flat = tokens.gather(starts + before, lengths - before)
        found = np.zeros(len(numbers), self.reader.dtype)
        for row, one in enumerate(np.split(flat, np.cumsum(lengths - before)[:-1]) if len(numbers) else []):
            found[row] = self.reader(one)
        return found
