"""Text to token ids and back.

A tokenizer also says how many bytes of text each token stands for: bits per byte, the loss that can be compared between tokenizers, needs
no more than that. Special tokens stand for none.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

import numpy as np

from halcyon_api.spec.tokenizer import TokenizerSpec


class Tokenizer(Protocol):
    """What the data pipeline asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        ...

    @property
    def bos_id(self) -> int:
        """Id that begins every document."""
        ...

    @property
    def eos_id(self) -> int:
        """Id that ends every document."""
        ...

    @property
    def pad_id(self) -> int:
        """Id that fills a sequence past the end of the text; never predicted."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text gets."""
        ...

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for: int32, shape [vocab_size]."""
        ...

    def encode(self, text: bytes | str) -> np.ndarray:
        """Token ids of a text, without special tokens: int32, shape [tokens]."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        ...


class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves; 256 begins a document, 257 ends it, 258 pads.

    Any file is text to it, of whatever encoding, so nothing has to be guessed, replaced or left out.
    """

    vocab_size = 259
    bos_id = 256
    eos_id = 257
    pad_id = 258

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tokenizer's kind and special ids."""
        definition = {"kind": "byte", "bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id, "vocabSize": self.vocab_size}
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()

    @property
    def token_bytes(self) -> np.ndarray:
        """One byte for each of the first 256 ids, none for the special ones: int32, shape [259]."""
        sizes = np.zeros(self.vocab_size, np.int32)
        sizes[:256] = 1
        return sizes

    def encode(self, text: bytes | str) -> np.ndarray:
        """The bytes of a text (of its UTF-8 form, if it is a string): int32, shape [bytes]."""
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the byte tokens; what is not valid UTF-8 is shown as U+FFFD."""
        ids = np.asarray(tokens)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer that a run document names."""
    if spec.byte is not None:
        return ByteTokenizer()
    raise TypeError(f"no tokenizer of kind {spec.kind}")
