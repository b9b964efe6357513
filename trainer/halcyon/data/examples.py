"""Examples in host memory: inputs, targets, loss weights and document segments of sequences.

A target that begins a document has weight 0, because a document does not predict the next one. Padding and tokens that
a format excludes from the loss have weight 0 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax  # the processes that build caches start without it

Batch = Mapping[str, "jax.Array"]
"""The examples of one step as global arrays [m, b, L] by name: m microbatches of b sequences of L positions. The names
are those of `Examples` that the run's objective declares; an objective itself gets one microbatch, [b, L]."""


@dataclass(frozen=True)
class Examples:
    """n sequences of L positions."""

    tokens: np.ndarray
    """Inputs: int32 [n, L]."""
    targets: np.ndarray
    """The token after each input: int32 [n, L]."""
    weights: np.ndarray
    """Loss weight of each target, 0 to 1: float32 [n, L]."""
    segments: np.ndarray
    """Number, within the sequence, of the document of each input: int32 [n, L]."""
    sound: np.ndarray | None = None
    """Features of the sound of each sequence: float32 [n, frames, bands]; None: they have no sound."""
    images: np.ndarray | None = None
    """Pixels of the images of each sequence: uint8 [n, image, row, column, colour]; None: they have no images."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> np.ndarray:
        """Place of each input in its document, from 0: int32 [n, L]."""
        places = np.arange(self.tokens.shape[1], dtype=np.int32)
        begins = np.diff(self.segments, axis=1, prepend=self.segments[:, :1]) != 0
        return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1, dtype=np.int32)

    @property
    def conversation_weights(self) -> np.ndarray:
        """`weights` divided by their sum over the document, so that all documents with a target that counts weigh 1:
        float32 [n, L].
        """
        rows, length = self.weights.shape
        first = self.segments - self.segments[:, :1]  # 0 to `length`
        keys = (first + (length + 1) * np.arange(rows)[:, None]).ravel()
        sums = np.bincount(keys, self.weights.ravel(), rows * (length + 1))[keys].reshape(rows, length)
        return np.where(sums > 0, self.weights / np.where(sums > 0, sums, 1.0), 0.0).astype(np.float32)

    def label(self, lengths: np.ndarray, classes: np.ndarray) -> None:
        """Make the number of a label the target of the last token of each sequence that has one, with weight 1.

        Args:
            lengths: Tokens of each sequence: integers [n].
            classes: Number of its label: integers [n]; below 0: it has none.
        """
        rows = np.flatnonzero(classes >= 0)
        self.targets[rows, lengths[rows] - 1] = classes[rows]
        self.weights[rows, lengths[rows] - 1] = 1

    def padded_to(self, sequences: int) -> Examples:
        """These examples, padded at the end with sequences of weight 0 to ``sequences`` in total."""
        missing = sequences - len(self)

        def padded(array: np.ndarray) -> np.ndarray:
            return np.pad(array, ((0, missing), *(((0, 0),) * (array.ndim - 1))))

        return replace(self, **{name: padded(array) for name, array in vars(self).items() if array is not None})


FIELDS = (*(field.name for field in fields(Examples)), "positions", "conversation_weights")
"""The arrays of `Examples` that an objective may declare."""


def examples_of(
    windows: np.ndarray, lengths: np.ndarray, token_weights: np.ndarray, pad_id: int, documents: np.ndarray
) -> Examples:
    """Make examples of token windows.

    Args:
        windows: Token ids of any type [n, L + 1]; values past a window's length are ignored.
        lengths: Tokens of each window: integers [n].
        token_weights: Loss weight of each token as a target: any type [n, L + 1].
        pad_id: The token that pads.
        documents: Number of the document of each token, rising along a window: int32 [n, L + 1].
    """
    tokens = windows[:, :-1].astype(np.int32)
    targets = windows[:, 1:].astype(np.int32)
    weights = token_weights[:, 1:].astype(np.float32)
    weights[documents[:, 1:] != documents[:, :-1]] = 0
    for row in np.flatnonzero(lengths < windows.shape[1]):
        length = int(lengths[row])
        tokens[row, length:] = pad_id
        targets[row, max(0, length - 1) :] = pad_id
        weights[row, max(0, length - 1) :] = 0
    return Examples(tokens, targets, weights, documents[:, :-1] + np.int32(1))
