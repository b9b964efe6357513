"""Reports how a layout uses the tokens of a source, so that no token is lost without a report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayoutReport:
    """Use of a source's tokens: each token is used, cropped or dropped."""

    sequences: int
    """Sequences, held-out ones included."""
    used: int
    """Tokens in sequences."""
    cropped: int
    """Tokens cut off documents whose other tokens are in a sequence."""
    dropped: int
    """Tokens of documents that are in no sequence, and of a remainder that fills no sequence."""
    padding: int
    """Token places of sequences that hold no token."""

    @property
    def cropped_share(self) -> float:
        """Cropped tokens as a share of all tokens."""
        return self.cropped / max(1, self.used + self.cropped + self.dropped)

    @property
    def padded_share(self) -> float:
        """Padding as a share of all token places."""
        return self.padding / max(1, self.used + self.padding)
