"""The byte tokenizer: it needs no training and no download, and accepts any file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from halcyon.tokenizer.rendered import EncodedText, RenderedText, encode_between

SPECIAL_TOKENS = MappingProxyType({"<|bos|>": 256, "<|eos|>": 257, "<|pad|>": 258})


class ByteTokenizer:
    """Ids 0 to 255 are the bytes themselves; 256 begins a document, 257 ends it, 258 pads.

    It accepts text of any encoding, so it never guesses an encoding and never replaces or drops bytes.
    """

    vocab_size = 259
    bos_id = SPECIAL_TOKENS["<|bos|>"]
    prefix = (bos_id,)
    suffix = ()
    eos_id = SPECIAL_TOKENS["<|eos|>"]
    ends = (eos_id,)
    pad_id = SPECIAL_TOKENS["<|pad|>"]
    special_tokens: Mapping[str, int] = SPECIAL_TOKENS

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the definition."""
        return self._fingerprint

    @property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text of each id: 1 for the first 256 ids, 0 for special tokens: int32, shape [259]."""
        return np.array([len(piece) for piece in self.pieces()], np.int32)

    def pieces(self) -> list[bytes]:
        """The byte of each of the first 256 ids; none for special tokens."""
        return [bytes([byte]) for byte in range(256)] + [b""] * (self.vocab_size - 256)

    def encode(self, text: str | bytes) -> np.ndarray:
        """The bytes of a text, in UTF-8 if it is a string: int32, shape [bytes]."""
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """``encode`` of each text."""
        return [self.encode(text) for text in texts]

    def encode_parts(self, parts: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """``encode`` of one text that comes in parts."""
        return map(self.encode, parts)

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        """Token ids of rendered templates, with the characters of each token."""
        return encode_between(texts, SPECIAL_TOKENS, self.encode_batch, self.token_bytes)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the byte tokens; invalid UTF-8 becomes U+FFFD, and special tokens are left out."""
        ids = np.asarray(tokens)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")
