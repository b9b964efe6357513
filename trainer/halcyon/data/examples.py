"""Sequences in host memory: what a model reads, what it should say, how much that counts, and which document it is in.

A target that begins a document has weight 0: nothing in a document predicts the next one. (Where one token both begins and
ends documents it counts after a text, for then it is the end that is predicted, and not after itself.) Padding has weight 0 too, and so
has what a format leaves out of the loss.
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
    """What follows each input: int32 [n, L]."""
    weights: np.ndarray
    """How much each target counts in the loss: float32 [n, L], 0 to 1."""
    segments: np.ndarray
    """Number of the document that each input is in, counted in its sequence: int32 [n, L]."""

    def __len__(self) -> int:
        return len(self.tokens)

    def padded_to(self, sequences: int) -> Examples:
        """The same with sequences of weight 0 at the end, ``sequences`` in all."""
        missing = ((0, sequences - len(self)), (0, 0))
        return Examples(*(np.pad(array, missing) for array in (self.tokens, self.targets, self.weights, self.segments)))


def examples_of(windows: np.ndarray, lengths: np.ndarray, token_weights: np.ndarray | None, tokenizer: Tokenizer) -> Examples:
    """Make examples of token windows.

    Args:
        windows: Token ids of any type [n, L + 1]; what is past a window's length is ignored.
        lengths: Tokens of each window: integers [n].
        token_weights: Loss weight of each token as a target: any type [n, L + 1]; None: all count.
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
