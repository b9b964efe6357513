"""The layout of prompts: each sequence is one document, in the order of the source. Nothing is packed, cut or left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from halcyon.data.layout.counted import Weights, first_counted
from halcyon.data.layout.report import LayoutReport
from halcyon.data.layout.spans import Spans, checked_indices, document_spans


class Prompts:
    """One prompt in each sequence.

    Args:
        prompt_tokens: Tokens of the prompt of each document, which begins with it: int64 [documents].
        document_ends: End of each document in the token stream: int64 [documents].
        sequence_length: Positions of a sequence.
    """

    spans_are_documents = True

    def __init__(self, prompt_tokens: np.ndarray, document_ends: np.ndarray, sequence_length: int) -> None:
        self.sequence_length = sequence_length
        self.sequences = len(prompt_tokens)
        self.prompt_tokens = prompt_tokens
        self._ends = document_ends

    @classmethod
    def build(cls, document_ends: np.ndarray, weights: Weights, sequence_length: int) -> Prompts:
        """Find the end of each prompt: the first token that counts.

        Args:
            document_ends: End of each document in the stream: int64 [documents].
            weights: The loss weights of the stream.
            sequence_length: Positions of a sequence.
        """
        return cls(first_counted(weights, document_ends), document_ends, sequence_length)

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens: those of the prompts are used, those of the references are not."""
        used, tokens = int(self.prompt_tokens.sum()), int(self._ends[-1]) if len(self._ends) else 0
        return LayoutReport(self.sequences, used, tokens - used, 0, self.sequences * (self.sequence_length + 1) - used)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the document, as far as it fits."""
        indices = checked_indices(indices, self.sequences)
        starts, lengths = document_spans(self._ends, indices)
        kept = np.minimum(lengths, self.sequence_length + 1).astype(np.int32)
        return Spans(np.arange(len(indices), dtype=np.int32), starts, kept)

    def documents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Beginnings of documents in the stream, tokens of their prompts, and tokens of the whole documents: int64 [n] each."""
        indices = checked_indices(indices, self.sequences)
        starts, lengths = document_spans(self._ends, indices)
        return starts, self.prompt_tokens[indices], lengths

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays to store, as the constructor takes them."""
        return {"prompt_tokens": self.prompt_tokens}
