"""How a token stream is cut into sequences, and which of them are held out.

A window is ``sequence_length + 1`` consecutive tokens: as many inputs and, one place later, as many targets. Windows do not overlap, not
even by the one token that ends one and could begin the next, so no token of a held-out window is ever seen in training. The last window is
filled with padding, so no text is dropped.

The held-out windows lie evenly over the stream: window ``w`` of ``n`` is held out when ``floor(w v / n)`` grows at ``w``, which picks
exactly ``v`` of them. Both directions have a closed form, so the choice costs no memory, and it depends on neither seed nor epoch: runs
with different seeds are judged on the same text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_WINDOWS = 2**31
"""Below this no product of two window numbers leaves 64 bits."""


@dataclass(frozen=True)
class Split:
    """``total`` windows, ``held_out`` of them for validation."""

    total: int
    held_out: int

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= self.total <= MAX_WINDOWS:
            raise ValueError(f"cannot hold out {self.held_out} of {self.total} windows; at most {MAX_WINDOWS} windows are possible")

    @property
    def training(self) -> int:
        """Number of training windows."""
        return self.total - self.held_out

    def training_windows(self, ranks: np.ndarray) -> np.ndarray:
        """The windows at the given ranks, 0 to ``training - 1``, among the training windows: int64, same shape."""
        ranks = np.asarray(ranks, np.int64)
        return ranks + ranks * self.held_out // self.training

    def validation_windows(self, ranks: np.ndarray) -> np.ndarray:
        """The windows at the given ranks, 0 to ``held_out - 1``, among the held-out windows: int64, same shape."""
        ranks = np.asarray(ranks, np.int64)
        return ((ranks + 1) * self.total - 1) // self.held_out


def window_count(tokens: int, sequence_length: int) -> int:
    """Windows of a stream. A rest of one token has nothing to predict and makes none."""
    full, rest = divmod(tokens, sequence_length + 1)
    return full + (rest >= 2)


def split_windows(total: int, fraction: float) -> Split:
    """Hold out the share ``fraction`` of ``total`` windows: at least one where a share is asked for and two windows exist."""
    held_out = round(total * fraction)
    if fraction > 0 and total >= 2:
        held_out = max(1, held_out)
    return Split(total, min(held_out, max(0, total - 1)))
