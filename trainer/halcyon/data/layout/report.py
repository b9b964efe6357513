"""What became of a source's tokens: nothing is lost in silence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayoutReport:
    """Where the tokens of a source went. Used, cropped and dropped tokens are all there are."""

    sequences: int
    """Sequences, held-out ones included."""
    used: int
    """Tokens in sequences."""
    cropped: int
    """Tokens cut off documents that are in a sequence otherwise."""
    dropped: int
    """Tokens of documents that are in no sequence, and of a rest that fills none."""
    padding: int
    """Places of sequences without a token."""

    @property
    def cropped_share(self) -> float:
        """Cropped tokens as a share of all."""
        return self.cropped / max(1, self.used + self.cropped + self.dropped)

    @property
    def padded_share(self) -> float:
        """Padding as a share of all places."""
        return self.padding / max(1, self.used + self.padding)
