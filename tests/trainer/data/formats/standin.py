"""A simple tokenizer: bytes, and the given special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from halcyon.data.sources import SourceRow
from halcyon.tokenizer.rendered import EncodedText, RenderedText, encode_between
from halcyon.tokenizer.special import OWN_SPECIAL_TOKENS


class MarkedBytes:
    """Ids 0 to 255 are the bytes of UTF-8; the special tokens follow."""

    def __init__(self, special: Sequence[str] = OWN_SPECIAL_TOKENS, bos: int | None = 256, eos: int = 257) -> None:
        self.special_tokens = {spelling: 256 + index for index, spelling in enumerate(special)}
        self.vocab_size = 256 + len(special)
        self.bos_id, self.eos_id, self.pad_id = bos, eos, eos
        self.prefix, self.suffix, self.ends = () if bos is None else (bos,), (), (eos,)
        self.fingerprint = "0" * 64
        self.token_bytes = np.repeat(np.array([1, 0], np.int32), [256, len(special)])
        self._spellings = {token: spelling for spelling, token in self.special_tokens.items()}

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text.decode().encode()
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        return encode_between(texts, self.special_tokens, self.encode_batch, self.token_bytes)

    def decode(self, tokens: np.ndarray) -> str:
        return self.show(tokens)

    def show(self, tokens: np.ndarray) -> str:
        """The text, with special tokens in brackets: ``[user_start]``."""
        out = b"".join(
            bytes([token]) if token < 256 else f"[{self._spellings[token].strip('<|>')}]".encode()
            for token in np.asarray(tokens).tolist()
        )
        return out.decode()


def row(value: Any, number: int = 17) -> SourceRow:
    return SourceRow("s3://bucket/a.jsonl", number, value)


def counted(tokenizer: MarkedBytes, tokens: np.ndarray, weights: np.ndarray) -> list[str]:
    """The texts of the stretches of tokens that count in the loss."""
    assert tokens.shape == weights.shape
    edges = np.flatnonzero(np.diff(np.concatenate([[0], weights, [0]])))
    return [tokenizer.show(tokens[start:end]) for start, end in edges.reshape(-1, 2)]
