"""All documents of a source as one array of token ids: ``BOS text EOS BOS text EOS ...``.

The array has the smallest unsigned type that holds the vocabulary, so a byte-tokenized megabyte costs two. The fingerprint is taken over
the raw documents with their lengths, so it tells moved borders between documents from moved text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from halcyon.data.sources import Document
from halcyon.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenStream:
    """A tokenized source."""

    tokens: np.ndarray
    """Token ids, unsigned, shape [tokens]."""
    documents: int
    size_bytes: int
    """Bytes of text in all documents."""
    sha256: str
    """Hash of the documents' contents, in order."""


def build_stream(documents: Iterable[Document], tokenizer: Tokenizer) -> TokenStream:
    """Tokenize documents into one array."""
    digest = hashlib.sha256()
    encoded: list[np.ndarray] = []
    size_bytes = 0
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    for document in documents:
        digest.update(len(document.content).to_bytes(8, "little"))
        digest.update(document.content)
        size_bytes += len(document.content)
        encoded.append(tokenizer.encode(document.content).astype(dtype))
    bos, eos = np.array([tokenizer.bos_id], dtype), np.array([tokenizer.eos_id], dtype)
    pieces = [piece for tokens in encoded for piece in (bos, tokens, eos)]
    return TokenStream(
        tokens=np.concatenate(pieces) if pieces else np.empty(0, dtype),
        documents=len(encoded),
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
    )
