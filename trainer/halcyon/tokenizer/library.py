"""The base class of tokenizers whose ids come from a library."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from halcyon.tokenizer.text import DocumentEncoder


class LibraryTokenizer:
    """Encodes texts of any length through its library; the base class of the three kinds."""

    @abstractmethod
    def _make_documents(self) -> DocumentEncoder:
        """Make the encoder of documents; called once, for the first text."""

    @abstractmethod
    def _make_token_bytes(self) -> np.ndarray:
        """Bytes of text of each id: int32, shape [vocab_size]; called once."""

    @cached_property
    def _documents(self) -> DocumentEncoder:
        return self._make_documents()

    @cached_property
    def _token_bytes(self) -> np.ndarray:
        return self._make_token_bytes()

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text of each id, 0 for special tokens: int32, shape [vocab_size]."""
        return self._token_bytes

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a text, without special tokens: int32, shape [tokens]."""
        return self._documents.encode(text)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Token ids of each text: int32, shape [tokens]."""
        return self._documents.encode_batch(texts)

    def encode_parts(self, parts: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """Token ids of one text that comes in parts: int32, shape [tokens] each."""
        return self._documents.encode_parts(parts)
