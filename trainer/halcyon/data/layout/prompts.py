"""The layout of prompts: each sequence is one prompt, in the order of the source. Nothing is packed or cut.

A document is the tokens of a prompt, which have weight 0, and then the bytes of the reference of its reward in UTF-8,
as numbers with weight 1. Tokens would change the reference: tokenizers normalize text, and spell special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from halcyon.data.layout.spans import (
    LayoutReport,
    Spans,
    Tokens,
    Weights,
    checked_indices,
    document_spans,
    first_counted,
)


@dataclass(frozen=True)
class PromptPacker:
    """One prompt in each sequence, with room for an answer. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        answer_tokens: Most tokens of an answer.
        skips: Whether a prompt without room for an answer is left out. Default: it stays, for an error with its row.
    """

    answer_tokens: int
    skips: bool = False
    empty = "it has no prompt with room for an answer; give it shorter prompts, or raise spec.trainer.sequenceLength"

    @property
    def key(self) -> list[Any]:
        """See `DocumentPacker`."""
        return [2, "prompts", asdict(self)]

    def build(self, document_ends: np.ndarray, weights: Weights, sequence_length: int) -> Prompts:
        """See `DocumentPacker`. A prompt ends before the first token that counts."""
        tokens = first_counted(weights, document_ends)
        room = sequence_length - self.answer_tokens
        kept = np.flatnonzero(tokens <= room) if self.skips else np.arange(len(tokens))
        return Prompts(tokens, kept, document_ends, sequence_length)

    def load(self, document_ends: np.ndarray, arrays: Mapping[str, np.ndarray], sequence_length: int) -> Prompts:
        """See `DocumentPacker`."""
        return Prompts(**arrays, document_ends=document_ends, sequence_length=sequence_length)


@dataclass(frozen=True, eq=False)
class Prompts:
    """One prompt in each sequence.

    Attributes:
        prompt_tokens: Tokens of the prompt of each document, which begins with it: int64 [documents].
        kept: Numbers of the documents that are in a sequence, rising: int64 [sequences].
        document_ends: End of each document in the token stream: int64 [documents].
        sequence_length: Positions of a sequence.
    """

    prompt_tokens: np.ndarray
    kept: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    spans_are_documents = True

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.kept)

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens of the prompts; the bytes of references are none."""
        reason = "because they leave no room for an answer; raise spec.trainer.sequenceLength to keep them"
        return LayoutReport.of_units(self.prompt_tokens, self.kept, self.sequence_length, "prompt", reason)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the prompt."""
        starts, prompts, _ = self.documents(indices)
        return Spans(np.arange(len(starts), dtype=np.int32), starts, prompts.astype(np.int32))

    def documents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Beginnings of documents in the stream, tokens of their prompts, and lengths of the whole documents: int64 [n]
        each.
        """
        numbers = self.kept[checked_indices(indices, self.sequences)]
        starts, lengths = document_spans(self.document_ends, numbers)
        return starts, self.prompt_tokens[numbers], lengths

    def read(self, tokens: Tokens, indices: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """The prompt, int32 [tokens], and the reference of each sequence."""
        starts, prompts, lengths = self.documents(indices)
        documents = np.split(tokens.gather(starts, lengths), np.cumsum(lengths)[:-1])
        return [
            (document[:prompt].astype(np.int32), document[prompt:].astype(np.uint8).tobytes().decode())
            for document, prompt in zip(documents, prompts.tolist(), strict=True)
        ]
