"""What the data path asks of a tokenizer, whichever library stands behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Text to token ids and back.

    Text may be a string or the bytes of its UTF-8 form. A tokenizer that cannot take every byte (all but the byte tokenizer) raises
    ``UnicodeError`` for bytes that are not UTF-8 and for strings with lone surrogates; the caller knows the file and says where they lie.
    """

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included; ids with no token, if any, are counted."""
        ...

    @property
    def bos_id(self) -> int:
        """Id that begins every document."""
        ...

    @property
    def eos_id(self) -> int:
        """Id that ends every document. May equal ``bos_id``, as in GPT-2."""
        ...

    @property
    def pad_id(self) -> int:
        """Id that fills a sequence past the end of the text; never predicted. May equal ``eos_id``."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text gets, and of nothing else."""
        ...

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text that each id stands for, 0 for special tokens: int32, shape [vocab_size].

        Bits per byte, the loss that can be compared between tokenizers, needs no more than that.
        """
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Id of each special token by its spelling."""
        ...

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a text: int32, shape [tokens]. No special tokens, not even where the text spells one."""
        ...

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """``encode`` of each text, faster: the libraries release the interpreter's lock while they work."""
        ...

    def encode_parts(self, parts: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """``encode`` of one text that comes in parts, for texts that are too long to be held with all their ids.

        Args:
            parts: The text, cut anywhere.

        Returns:
            The ids, part by part, cut elsewhere: int32, shape [tokens] each.
        """
        ...

    def encode_marked(self, text: str) -> np.ndarray:
        """Like ``encode``, but special tokens that the text spells are recognised. For templates, never for what users wrote."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out, and what is not valid UTF-8 is shown as U+FFFD."""
        ...
