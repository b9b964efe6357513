"""The layout of prompts: each sequence is one prompt, in the order of the source. Nothing is packed or cut. And that of
texts with labels, whose reference is the label; a long text loses its end.

A document is the tokens of a prompt, which have weight 0, and then the bytes of the reference of its reward in UTF-8,
as numbers with weight 1. Tokens would change the reference: tokenizers normalize text, and spell special tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from halcyon.data.layout.spans import LayoutReport, OneEach, Spans, Tokens, Weights, first_counted
from halcyon.host.errors import BadConfiguration

_CHUNK = 2**14
"""Texts whose labels are read at once."""


@dataclass(frozen=True, eq=False)
class Prompts(OneEach):
    """One prompt in each sequence.

    Attributes:
        prompt_tokens: Tokens of the prompt of each document, which begins with it: int64 [documents].
    """

    prompt_tokens: np.ndarray

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens of the prompts; the bytes of references are none."""
        reason = "because they leave no room for an answer; raise spec.trainer.sequenceLength to keep them"
        return LayoutReport.of_units(self.prompt_tokens, self.kept, self.sequence_length, "prompt", reason)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each sequence: the prompt."""
        numbers, starts, _ = self.documents(indices)
        return Spans(np.arange(len(starts), dtype=np.int32), starts, self.prompt_tokens[numbers].astype(np.int32))

    def read(self, tokens: Tokens, indices: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """The prompt, int32 [tokens], and the reference of each sequence."""
        numbers, starts, lengths = self.documents(indices)
        documents = np.split(tokens.gather(starts, lengths), np.cumsum(lengths)[:-1])
        return [
            (document[:prompt].astype(np.int32), document[prompt:].astype(np.uint8).tobytes().decode())
            for document, prompt in zip(documents, self.prompt_tokens[numbers].tolist(), strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Labelled(Prompts):
    """One text in each sequence: the part of it that fits.

    Attributes:
        classes: Number of the label of each text: int64 [documents].
    """

    classes: np.ndarray


@dataclass(frozen=True)
class PromptPacker:
    """One prompt in each sequence, with room for an answer. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        answer_tokens: Most tokens of an answer.
        skips: Whether a prompt without room for an answer is left out. Default: it stays, for an error with its row.
    """

    answer_tokens: int
    skips: bool = False
    make = Prompts
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
        return Prompts(kept, document_ends, sequence_length, tokens)


@dataclass(frozen=True)
class LabelPacker:
    """One text in each sequence. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        labels: The labels of the model.
        source: Name of the source, for error messages.
    """

    labels: tuple[str, ...]
    source: str
    make = Labelled
    empty = "it has no text; give it texts with labels"

    @property
    def key(self) -> list[Any]:
        """See `DocumentPacker`."""
        return [1, "labels", self.labels]

    def build(self, document_ends: np.ndarray, weights: Tokens, sequence_length: int) -> Labelled:
        """See `DocumentPacker`.

        Raises:
            BadConfiguration: A text has a label that the model does not have.
        """
        tokens, kept = first_counted(weights, document_ends), np.arange(len(document_ends))
        whole = Prompts(kept, document_ends, sequence_length, tokens)
        numbers = {str(number): number for number in range(len(self.labels))}
        numbers |= {name: number for number, name in enumerate(self.labels)}
        classes: list[int] = []
        for first in range(0, len(kept), _CHUNK):
            for _, label in whole.read(weights, kept[first : first + _CHUNK]):
                if label not in numbers:
                    raise BadConfiguration(
                        f"spec.data.sources[{self.source}].format.text.labelField: a text has the label {label!r}, "
                        "which spec.model.labels lacks; add it there, or fix the row"
                    )
                classes.append(numbers[label])
        kept_tokens = np.minimum(tokens, sequence_length)
        return Labelled(kept, document_ends, sequence_length, kept_tokens, np.array(classes, int))
