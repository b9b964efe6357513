"""Examples in host memory: inputs, targets, loss weights and document segments of sequences.

A target that begins a document has weight 0, because a document does not predict the next one. If the same token begins and ends documents,
it has weight 0 only after itself: after a text it is the end of the document, which is predicted. Padding and tokens that a format excludes
from the loss have weight 0 too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from halcyon.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jax  # the processes that build caches start without it

Batch = Mapping[str, "jax.Array"]
"""The examples of one step as global arrays [m, b, L] by name: m microbatches of b sequences of L positions. The names are those of
`Examples` that the run's objective declares; an objective itself gets one microbatch, [b, L]."""


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

    def __len__(self) -> int:
        return len(self.tokens)

    def padded_to(self, sequences: int) -> Examples:
        """These examples, padded at the end with sequences of weight 0 to ``sequences`` in total."""
        missing = ((0, sequences - len(self)), (0, 0))
        return Examples(*(np.pad(array, missing) for array in (self.tokens, self.targets, self.weights, self.segments)))


def examples_of(windows: np.ndarray, lengths: np.ndarray, token_weights: np.ndarray | None, tokenizer: Tokenizer) -> Examples:
    """Make examples of token windows.

    Args:
        windows: Token ids of any type [n, L + 1]; values past a window's length are ignored.
        lengths: Tokens of each window: integers [n].
        token_weights: Loss weight of each token as a target: any type [n, L + 1]; None: 1 for every token.
        tokenizer: The tokenizer of the ids.
    """
    tokens = windows[:, :-1].astype(np.int32)
    targets = windows[:, 1:].astype(np.int32)
    weights = np.ones(targets.shape, np.float32) if token_weights is None else token_weights[:, 1:].astype(np.float32)
    begins = targets == tokenizer.bos_id
    if tokenizer.bos_id == tokenizer.eos_id:
        begins &= tokens == tokenizer.eos_id
    weights[begins] = 0
    for row in np.flatnonzero(lengths < windows.shape[1]):
        length = int(lengths[row])
        tokens[row, length:] = tokenizer.pad_id
        targets[row, max(0, length - 1) :] = tokenizer.pad_id
        weights[row, max(0, length - 1) :] = 0
    segments = np.cumsum(tokens == tokenizer.bos_id, axis=1, dtype=np.int32)
    return Examples(tokens, targets, weights, segments)
