"""Small data for the tests: run document sections, and a stream whose every token is different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from halcyon.data import Dataset, open_dataset
from halcyon.data.order import Order
from halcyon.data.stream import TokenStream
from halcyon.data.tokenizer import Tokenizer
from halcyon.data.windows import split_windows, window_count
from halcyon_api.spec.data import DataSpec, OrderSpec, RandomOrderSpec, SequentialOrderSpec, ValidationSpec
from halcyon_api.spec.sources import DataSourceSpec, StdlibSourceSpec, TextSourceSpec
from halcyon_api.spec.tokenizer import ByteTokenizerSpec, TokenizerSpec
from halcyon_api.spec.trainer import EvaluationSpec, TrainerSpec

TOKENIZER = TokenizerSpec(byte=ByteTokenizerSpec())


def text_source(*paths: Path | str, name: str = "corpus") -> DataSourceSpec:
    return DataSourceSpec(name=name, text=TextSourceSpec(paths=[str(path) for path in paths]))


def stdlib_source(*include: Any) -> DataSourceSpec:
    return DataSourceSpec(name="stdlib", stdlib=StdlibSourceSpec(include=list(include)) if include else StdlibSourceSpec())


def open_text(
    *paths: Path | str,
    name: str = "corpus",
    seed: int = 0,
    sequence_length: int = 16,
    fraction: float = 0.1,
    shuffle: bool = True,
    every_steps: int = 0,
) -> Dataset:
    order = OrderSpec(random=RandomOrderSpec()) if shuffle else OrderSpec(sequential=SequentialOrderSpec())
    data = DataSpec(sources=[text_source(*paths, name=name)], order=order, validation=ValidationSpec(fraction=fraction))
    trainer = TrainerSpec(
        steps=1, batch_size=1, sequence_length=sequence_length, seed=seed, evaluation=EvaluationSpec(every_steps=every_steps)
    )
    return open_dataset(data, TOKENIZER, trainer)


class CountingTokenizer:
    """A tokenizer of a large vocabulary whose special tokens occur nowhere, so that a stream can have all tokens different."""

    vocab_size = 2**20
    bos_id = 2**20 - 3
    eos_id = 2**20 - 2
    pad_id = 2**20 - 1
    fingerprint = "0" * 64

    @property
    def token_bytes(self) -> np.ndarray:
        return np.full(self.vocab_size, 4, np.int32)

    def encode(self, text: bytes | str) -> np.ndarray:
        raise NotImplementedError

    def decode(self, tokens: np.ndarray) -> str:
        raise NotImplementedError


def distinct_tokens(tokens: int, *, sequence_length: int = 8, fraction: float = 0.1, seed: int = 0, shuffle: bool = True) -> Dataset:
    """A data set of the tokens 0, 1, 2, ...: a token tells its place."""
    stream = TokenStream(np.arange(tokens, dtype=np.uint32), documents=1, size_bytes=4 * tokens, sha256="0" * 64)
    tokenizer: Tokenizer = CountingTokenizer()
    split = split_windows(window_count(tokens, sequence_length), fraction)
    order = Order(sequences=split.training, seed=seed, source="distinct", shuffle=shuffle)
    return Dataset(stream, tokenizer, sequence_length=sequence_length, split=split, order=order)
