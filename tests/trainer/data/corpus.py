"""Small data sets: texts that are read through a token cache, and a stream in which all tokens are different."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.dataset import Dataset
from halcyon.data.examples import Examples
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.mixture import Mixture
from halcyon.data.order.epochs import Order
from halcyon.data.source_data import BatchRows, SourceData
from halcyon.data.split import split_sequences
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import EncodedText, RenderedText
from halcyon_api.spec.data import OrderSpec, RandomOrderSpec, SequentialOrderSpec
from halcyon_api.spec.sources import DataSourceSpec, StdlibSourceSpec, TextSourceSpec
from halcyon_api.spec.trainer import BatchScheduleEntry
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.support.datasets import open_dataset

RANDOM, SEQUENTIAL = OrderSpec(random=RandomOrderSpec()), OrderSpec(sequential=SequentialOrderSpec())


def text_source(*paths: Path | str, name: str = "corpus", **settings: Any) -> DataSourceSpec:
    return DataSourceSpec(name=name, text=TextSourceSpec(paths=[str(path) for path in paths]), **settings)


def stdlib_source(*include: Any) -> DataSourceSpec:
    return DataSourceSpec(
        name="stdlib", stdlib=StdlibSourceSpec(include=list(include)) if include else StdlibSourceSpec()
    )


def open_text(
    *paths: Path | str,
    name: str = "corpus",
    sources: Sequence[DataSourceSpec] = (),
    seed: int = 0,
    sequence_length: int = 16,
    batch_size: int = 1,
    steps: int = 1,
    stages: Sequence[Mapping[str, int]] = (),
    fraction: float = 0.1,
    shuffle: bool = True,
    every_steps: int = 0,
    mixture: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    process: str = "local",
) -> Dataset:
    """The data set of a run document.

    Args:
        paths: Files or directories of the only source ``name``.
        sources: Several sources, instead of ``paths``.
        cache: Folder of the token caches. Default: a directory that is deleted with the data set.
        stages, mixture: As in the run document.
        process: A name that is unique among the processes that build the same caches.
    """
    own = None if cache else tempfile.mkdtemp(prefix="halcyon-cache-")
    given = list(sources) or [text_source(*paths, name=name)]
    spec = TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": {"family": "llama"},
            "data": {
                "sources": [source.document() for source in given],
                "order": {"random": {}} if shuffle else {"sequential": {}},
                "validation": {"fraction": fraction},
                "mixture": mixture or {},
                "cache": {"workers": 1},
            },
            "trainer": {
                "steps": steps,
                "batchSize": batch_size,
                "sequenceLength": sequence_length,
                "batchSchedule": list(stages),
                "seed": seed,
                "evaluation": {"everySteps": every_steps},
            },
            "checkpoint": {"root": f"file://{cache or own}"},
        }
    )
    try:
        dataset = open_dataset(spec, process=process)
    except BaseException:
        if own:
            shutil.rmtree(own)
        raise
    if own:
        weakref.finalize(dataset, shutil.rmtree, own)
    return dataset


class CountingTokenizer:
    """A tokenizer with a large vocabulary whose special tokens do not occur, so that all tokens of a stream can be
    different.
    """

    vocab_size = 2**20
    fingerprint = "0" * 64

    def __init__(self, *, bos_id: int = 2**20 - 3, eos_id: int = 2**20 - 2, pad_id: int = 2**20 - 1) -> None:
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.prefix, self.suffix, self.ends = (bos_id,), (), (eos_id,)

    @property
    def token_bytes(self) -> np.ndarray:
        return np.full(self.vocab_size, 4, np.int32)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return {"<|bos|>": self.bos_id, "<|eos|>": self.eos_id, "<|pad|>": self.pad_id}

    def encode(self, text: bytes | str) -> np.ndarray:
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[bytes | str]) -> list[np.ndarray]:
        raise NotImplementedError

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        raise NotImplementedError

    def decode(self, tokens: np.ndarray) -> str:
        raise NotImplementedError


class TokensInMemory:
    """A token stream without a cache.

    Args:
        tokens: Token ids.
        weights: A loss weight for each token; None: all tokens have weight 1.
        ends: End of each document; None: there is one document.
    """

    def __init__(self, tokens: np.ndarray, weights: np.ndarray | None = None, ends: Sequence[int] = ()) -> None:
        self._tokens = tokens
        self._weights = weights
        self._begins = np.isin(np.arange(len(tokens)), ends)

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return _gathered(self._tokens, starts, lengths)

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        return None if self._weights is None else _gathered(self._weights, starts, lengths)

    def gather_begins(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        found = _gathered(self._begins, starts, lengths)
        found[np.cumsum(lengths) - lengths] = False
        return found


def _gathered(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    parts = [values[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return np.concatenate([values[:0], *parts])


def distinct_tokens(
    tokens: int,
    *,
    sequence_length: int = 8,
    fraction: float = 0.1,
    seed: int = 0,
    shuffle: bool = True,
    batch_size: int = 1,
    steps: int = 1,
    stages: Sequence[BatchScheduleEntry] = (),
) -> Dataset:
    """A data set of the tokens 0, 1, 2, ...: each token is its own position."""
    return dataset_of_tokens(
        np.arange(tokens, dtype=np.uint32),
        fraction=fraction,
        seed=seed,
        shuffle=shuffle,
        schedule=BatchSchedule(steps=steps, batch_size=batch_size, sequence_length=sequence_length, periods=stages),
    )


def dataset_of_tokens(
    tokens: np.ndarray,
    *,
    schedule: BatchSchedule,
    tokenizer: Tokenizer | None = None,
    weights: np.ndarray | None = None,
    ends: Sequence[int] | None = None,
    fraction: float = 0.0,
    seed: int = 0,
    shuffle: bool = False,
) -> Dataset:
    """A data set with one source, the token stream ``tokens``. Without ``ends``, the begin token begins a document."""
    layout = Concatenate(len(tokens), schedule.longest)
    split = split_sequences(layout.sequences, fraction)
    tokenizer = tokenizer or CountingTokenizer()
    source = SourceData(
        name="distinct",
        tokens=TokensInMemory(tokens, weights, ends or ()),
        layout=layout,
        split=split,
        order=Order(RANDOM if shuffle else SEQUENTIAL, sequences=split.training, seed=seed, source="distinct"),
        used=split.training,
        description={"contentSha256": "0" * 64, "tokens": len(tokens), "documents": 1, "sizeBytes": 4 * len(tokens)},
        begin_id=tokenizer.bos_id if ends is None else None,
    )
    mixture = Mixture(["distinct"], [split.training], [(0, [1.0])], seed=seed)
    return Dataset([source], tokenizer, schedule, mixture)


def at(dataset: Dataset, sequences: Sequence[int] | np.ndarray, *, source: int = 0) -> Examples:
    """The examples of some sequences of one source, from training or held-out data."""
    numbers = np.asarray(sequences, np.int64)
    zeros = np.zeros(len(numbers), np.int32)
    return dataset.examples(BatchRows(zeros + source, numbers, zeros, dataset.sequence_length))
