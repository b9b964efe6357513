"""The layout of prompts: each sequence is one document, in the order of the source.

Nothing is packed, cut or left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from halcyon.data.layout.spans import LayoutReport, Spans, Weights, checked_indices, document_spans, first_counted


@dataclass(frozen=True)
class PromptPacker:
    """One prompt in each sequence, with room for an answer. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        answer_tokens: Most tokens of an answer.
    """

    answer_tokens: int
    empty = "it has no prompt; give it rows"

    @property
    def key(self) -> list[Any]:
        """See `DocumentPacker`."""
        return [1, "prompts"]

    def build(self, document_ends: np.ndarray, weights: Weights, sequence_length: int) -> Prompts:
        """See `DocumentPacker`. A prompt ends before the first token that counts."""
        return Prompts(first_counted(weights, document_ends), document_ends, sequence_length)

    def load(self, document_ends: np.ndarray, arrays: Mapping[str, np.ndarray], sequence_length: int) -> Prompts:
        """See `DocumentPacker`."""
        return Prompts(**arrays, document_ends=document_ends, sequence_length=sequence_length)


@dataclass(frozen=True, eq=False)
class Prompts:
    """One prompt in each sequence.

    Attributes:
        prompt_tokens: Tokens of the prompt of each document, which begins with it: int64 [documents].
        document_ends: End of each document in the token stream: int64 [documents].
        sequence_length: Positions of a sequence.
    """

    prompt_tokens: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    spans_are_documents = True

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.prompt_tokens)

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens: those of the prompts are used, those of the references are not."""
        used, tokens = int(self.prompt_tokens.sum()), int(self.document_ends[-1]) if len(self.document_ends) else 0
        return LayoutReport(self.sequences, used, tokens - used, 0, self.sequences * (self.sequence_length + 1) - used)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the document, as far as it fits."""
        indices = checked_indices(indices, self.sequences)
        starts, lengths = document_spans(self.document_ends, indices)
        kept = np.minimum(lengths, self.sequence_length + 1).astype(np.int32)
        return Spans(np.arange(len(indices), dtype=np.int32), starts, kept)

    def documents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Beginnings of documents in the stream, tokens of their prompts, and tokens of the whole documents: int64 [n]
        each.
        """
        indices = checked_indices(indices, self.sequences)
        starts, lengths = document_spans(self.document_ends, indices)
        return starts, self.prompt_tokens[indices], lengths

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays to store, as the constructor takes them."""
        return {"prompt_tokens": self.prompt_tokens}
