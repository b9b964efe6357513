"""The byte tokenizer: it needs no training and no download, and accepts any file."""

from types import MappingProxyType

import numpy as np

from halcyon.tokenizer.protocol import Tokenizer

SPECIAL_TOKENS = MappingProxyType({"<|bos|>": 256, "<|eos|>": 257, "<|pad|>": 258})


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes themselves; 256 begins a document, 257 ends it, 258 pads.

    It accepts text of any encoding, so it never guesses an encoding and never replaces or drops bytes.
    """

    vocab_size = 259
    bos_id = SPECIAL_TOKENS["<|bos|>"]
    prefix = (bos_id,)
    eos_id = SPECIAL_TOKENS["<|eos|>"]
    ends = (eos_id,)
    pad_id = SPECIAL_TOKENS["<|pad|>"]
    special_tokens = SPECIAL_TOKENS

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def pieces(self) -> list[bytes]:
        """The byte of each of the first 256 ids; none for special tokens."""
        return [bytes([byte]) for byte in range(256)] + [b""] * (self.vocab_size - 256)

    def encode(self, text: str | bytes) -> np.ndarray:
        """The bytes of a text, in UTF-8 if it is a string: int32, shape [bytes]."""
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the byte tokens; invalid UTF-8 becomes U+FFFD, and special tokens are left out."""
        ids = np.asarray(tokens)
        return ids[ids < 256].astype(np.uint8).tobytes().decode(errors="replace")
