"""The encodings of OpenAI's tiktoken: a file of ranked byte strings, and a split pattern that follows from the
encoding's name.

``tiktoken`` is the reference, with 10 to 15 MB/s per core; ``fastokens`` encodes if it gives the same ids on the probe.
"""

import base64
import binascii
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import fastokens
import numpy as np
import tiktoken

from halcyon.host.errors import BadConfiguration
from halcyon.host.limits.sizes import MOST_IDS
from halcyon.tokenizer.cut import CUT_BETWEEN, DocumentEncoder
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.encoders import FastEncoder, choose_encoder
from halcyon.tokenizer.library import LibraryTokenizer
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS, END_OF_TEXT

WHERE = "spec.tokenizer.tiktoken"


class TiktokenTokenizer(LibraryTokenizer):
    """A tokenizer from tiktoken's mergeable ranks.

    ``<|endoftext|>`` ends a document, and pads. Nothing stands before a text.
    """

    where = WHERE

    def __init__(self, definition: TokenizerDefinition) -> None:
        encoding = ENCODINGS[definition.options["encoding"]]
        ranks = _read(definition.content)
        self.fingerprint = definition.fingerprint
        self.special_tokens: Mapping[str, int] = MappingProxyType(dict(encoding.special_tokens))
        self.vocab_size = max(*ranks.values(), *self.special_tokens.values()) + 1
        self.bos_id = self.eos_id = self.pad_id = self.special_tokens[END_OF_TEXT]
        self.ends = (self.eos_id,)
        self._ranks = ranks
        self._library = tiktoken.Encoding(
            definition.options["encoding"],
            pat_str=encoding.pattern,
            mergeable_ranks=ranks,
            special_tokens=dict(self.special_tokens),
        )
        self._encode_pieces = choose_encoder(
            [partial(_fast, definition.content, encoding.pattern, self.special_tokens)],
            self._encode_slowly,
            self.special_tokens,
            "these ranks",
            "tiktoken",
        )

    def _encode_slowly(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._library.encode_to_numpy(text, disallowed_special=()).astype(np.int32) for text in texts]

    @cached_property
    def _documents(self) -> DocumentEncoder:
        return DocumentEncoder(self._encode_pieces, CUT_BETWEEN)

    def pieces(self) -> list[bytes]:
        """The bytes of text of each id; none for special tokens."""
        pieces = {token: piece for piece, token in self._ranks.items()}
        return [pieces.get(token, b"") for token in range(self.vocab_size)]

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        ids = np.asarray(tokens)
        return self._library.decode(ids[self.token_bytes[ids] > 0].tolist(), errors="replace")


def _read(content: bytes) -> dict[bytes, int]:
    """Rank of each byte string. Source of the format: tiktoken's `load_tiktoken_bpe`."""
    try:
        lines = [line.split() for line in content.splitlines() if line]
        ranks = {base64.b64decode(data, validate=True): int(rank) for data, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise BadConfiguration(
            f"{WHERE}.path: this is not a file of mergeable ranks ({error}); give a .tiktoken file"
        ) from None
    if bad := [rank for rank in ranks.values() if not 0 <= rank < MOST_IDS]:
        raise BadConfiguration(
            f"{WHERE}.path: it has the rank {bad[0]}, and ranks must be from 0 to {MOST_IDS - 1}; give a .tiktoken file"
        )
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise BadConfiguration(f"{WHERE}.path: {missing} of the 256 bytes have no rank; give a complete .tiktoken file")
    return ranks


def _fast(content: bytes, pattern: str, special: Mapping[str, int]) -> FastEncoder:
    with tempfile.TemporaryDirectory() as directory:  # fastokens reads ranks from a file only
        path = Path(directory) / "encoding.tiktoken"
        path.write_bytes(content)
        return FastEncoder(fastokens.Tokenizer.from_tiktoken(str(path), pattern=pattern, special_tokens=dict(special)))
