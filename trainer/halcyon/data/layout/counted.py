"""Where the loss of each document begins: the first of its tokens that counts as a target."""

from __future__ import annotations

from typing import Protocol

import numpy as np

_CHUNK_TOKENS = 2**22


class Weights(Protocol):
    """The loss weights of a token stream."""

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """The loss weights of the tokens of spans, concatenated; None: all are 1."""
        ...


def first_counted(weights: Weights, document_ends: np.ndarray) -> np.ndarray:
    """The index, in its document, of the first token with a loss weight above 0; the document's length if it has none:
    int64 [documents].

    The first token of a document is never a target, so the least index is 1. One pass over the stream, some megabytes
    at a time.

    Args:
        weights: The weights of the stream.
        document_ends: End of each document in the stream, rising: int64 [documents].
    """
    ends = np.asarray(document_ends, np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    found = np.empty_like(ends)
    first = 0
    while first < len(ends):
        end = max(first + 1, int(np.searchsorted(ends, starts[first] + _CHUNK_TOKENS, side="right")))
        found[first:end] = _of_chunk(weights, starts[first:end], ends[first:end])
        first = end
    return found


def _of_chunk(weights: Weights, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    begin, lengths = starts[0], ends - starts
    known = weights.gather_weights(np.array([begin]), np.array([ends[-1] - begin])) if ends[-1] > begin else np.empty(0)
    if known is None:
        return np.minimum(lengths, 1)
    hits = np.flatnonzero(known > 0) + begin
    places = np.searchsorted(hits, starts + 1)
    found = np.append(hits, ends[-1])[places] - starts
    return np.minimum(found, lengths)
