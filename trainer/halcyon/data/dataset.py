"""The data of a run: examples by index, and the indices of a step.

``train_batch(step, batch_size)`` and ``examples(indices)`` are pure functions of the run document. Step ``s`` (counted from 0) takes
positions ``s B`` to ``(s + 1) B - 1`` of the training order, so changing hosts, mesh or microbatches moves nothing.

A target that begins a document has weight 0: what the next document is cannot be told from the last one. Padding has weight 0 too, and
every sequence keeps at least one target that counts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from halcyon.data.order import Order
from halcyon.data.sources import read_documents
from halcyon.data.stream import TokenStream, build_stream
from halcyon.data.tokenizer import Tokenizer, build_tokenizer
from halcyon.data.windows import MAX_WINDOWS, Split, split_windows, window_count
from halcyon.errors import BadConfiguration
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.tokenizer import TokenizerSpec
from halcyon_api.spec.trainer import TrainerSpec

LAYOUT_VERSION = 1
"""Raised when the same text would give other sequences, or another order, than before."""


@dataclass(frozen=True)
class Examples:
    """Sequences in host memory: n sequences of L positions."""

    tokens: np.ndarray
    """Inputs: int32 [n, L]."""
    targets: np.ndarray
    """What follows each input: int32 [n, L]."""
    weights: np.ndarray
    """How much each target counts in the loss: float32 [n, L], 0 or 1."""

    def __len__(self) -> int:
        return len(self.tokens)

    def padded_to(self, sequences: int) -> Examples:
        """The same with sequences of weight 0 at the end, ``sequences`` in all."""
        missing = ((0, sequences - len(self)), (0, 0))
        return Examples(np.pad(self.tokens, missing), np.pad(self.targets, missing), np.pad(self.weights, missing))


class Dataset:
    """A tokenized source, cut into sequences, one part of it held out.

    Args:
        stream: The text as token ids.
        tokenizer: The tokenizer that made them.
        sequence_length: Positions of a sequence, L.
        split: Which windows of the stream are held out.
        order: The order of the training sequences.
    """

    def __init__(self, stream: TokenStream, tokenizer: Tokenizer, *, sequence_length: int, split: Split, order: Order) -> None:
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.tokens = len(stream.tokens)
        """Tokens of the text, special ones included."""
        self.documents = stream.documents
        """Documents of the text."""
        self.size_bytes = stream.size_bytes
        """Bytes of the text."""
        self._content_sha256 = stream.sha256
        self._split = split
        self._order = order
        ids = split.total * (sequence_length + 1)
        padding = np.full(max(0, ids - self.tokens), tokenizer.pad_id, stream.tokens.dtype)
        self._windows = np.concatenate([stream.tokens[:ids], padding]).reshape(split.total, sequence_length + 1)

    @property
    def train_sequences(self) -> int:
        """Training sequences of one epoch."""
        return self._split.training

    @property
    def validation_sequences(self) -> int:
        """Held-out sequences."""
        return self._split.held_out

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token, special ones included."""
        return self.size_bytes / self.tokens

    @property
    def description(self) -> dict[str, Any]:
        """What the fingerprint is taken over, for a sentence that says what differs."""
        return {
            "layoutVersion": LAYOUT_VERSION,
            "contentSha256": self._content_sha256,
            "documents": self.documents,
            "sizeBytes": self.size_bytes,
            "tokenizerSha256": self.tokenizer.fingerprint,
            "sequenceLength": self.sequence_length,
            "trainSequences": self.train_sequences,
            "validationSequences": self.validation_sequences,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over contents, tokenizer and layout: equal fingerprints give equal examples for equal indices."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def train_batch(self, step: int, batch_size: int) -> np.ndarray:
        """Indices of the examples of the ``(step + 1)``-th optimizer step: int64 [batch_size]."""
        first = step * batch_size
        return self._split.training_windows(self._order(np.arange(first, first + batch_size)))

    def validation_batches(self, batches: int, batch_size: int) -> list[np.ndarray]:
        """Indices of the held-out examples of one evaluation, the same every time: each int64 [at most batch_size].

        Where ``batches`` do not hold all of them, those taken lie evenly over the text.
        """
        taken = min(batches * batch_size, self.validation_sequences)
        ranks = np.arange(taken, dtype=np.int64) * self.validation_sequences // max(1, taken)
        windows = self._split.validation_windows(ranks) if taken else ranks
        return [windows[first : first + batch_size] for first in range(0, taken, batch_size)]

    def examples(self, indices: np.ndarray) -> Examples:
        """The examples at indices of `train_batch` or `validation_batches`."""
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self._split.total):
            raise IndexError(f"an index is outside [0, {self._split.total})")
        windows = self._windows[indices].astype(np.int32)
        targets = np.ascontiguousarray(windows[:, 1:])
        counted = (targets != self.tokenizer.bos_id) & (targets != self.tokenizer.pad_id)
        return Examples(np.ascontiguousarray(windows[:, :-1]), targets, counted.astype(np.float32))


def open_dataset(data: DataSpec, tokenizer: TokenizerSpec, trainer: TrainerSpec) -> Dataset:
    """Read, tokenize and lay out the data of a run.

    Raises:
        BadConfiguration: There is no text, it cannot be read, or it is too little for what is asked. The sentence names the field.
    """
    source = data.sources[0]
    built = build_tokenizer(tokenizer)
    stream = build_stream(read_documents(source), built)
    total = window_count(len(stream.tokens), trainer.sequence_length)
    if total == 0:
        raise BadConfiguration(f"spec.data.sources[{source.name}].{source.kind}: all its files are empty; give it some text")
    if total > MAX_WINDOWS:
        raise BadConfiguration(
            f"spec.trainer.sequenceLength: {trainer.sequence_length} makes {total} sequences of the text, more than {MAX_WINDOWS}; raise it"
        )
    fraction = data.validation.fraction
    split = split_windows(total, fraction)
    if split.held_out == 0 and trainer.evaluation.every_steps > 0:
        raise BadConfiguration(
            f"spec.data.validation.fraction: {fraction:g} of {total} sequences holds none out, but spec.trainer.evaluation.everySteps asks "
            "for evaluations; raise the fraction, give more text, or set everySteps to 0"
        )
    order = Order(sequences=split.training, seed=trainer.seed, source=source.name, shuffle=data.order.sequential is None)
    return Dataset(stream, built, sequence_length=trainer.sequence_length, split=split, order=order)
