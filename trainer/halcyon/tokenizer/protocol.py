"""What a tokenizer does, independent of its library."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer.rendered import EncodedText, RenderedText, encode_between
from halcyon_api.spec.tokenizer import MASKS


class Tokenizer(ABC):
    """Turns text into token ids and back.

    Text is a string or its bytes in UTF-8. All tokenizers raise ``UnicodeError`` for strings with lone surrogates, and
    all except the byte tokenizer for bytes that are not UTF-8. The caller, which knows the file, reports their place.
    """

    vocab_size: int
    """Number of token ids, including special tokens and ids without a token."""
    bos_id: int | None
    """Id of the token that templates know as ``bos_token``. None: the tokenizer has none."""
    eos_id: int
    """Id that ends every document. May equal ``bos_id``, as in GPT-2."""
    ends: tuple[int, ...]
    """Ids that end what a model generates: ``eos_id`` first, then those that the model's files name too."""
    pad_id: int
    """Id that fills a sequence after the end of the text; padding has no weight in the loss. May equal ``eos_id``."""
    fingerprint: str
    """SHA-256 (hex) of everything that decides the ids of a text, and of nothing else."""
    special_tokens: Mapping[str, int]
    """Id of each special token by its spelling."""

    prefix: tuple[int, ...] = ()
    """Ids that the tokenizer's own settings put before each text: none, or ``bos_id``, or others."""
    suffix: tuple[int, ...] = ()
    """Ids that the tokenizer's own settings put after each text; mostly none."""

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text of each id, 0 for special tokens: int32, shape [vocab_size].

        Bits per byte, the loss that can be compared between tokenizers, is computed from it.
        """
        return np.array([len(piece) for piece in self.pieces()], np.int32)

    @abstractmethod
    def pieces(self) -> list[bytes]:
        """The bytes of text of each id; none for special tokens and for ids without a token."""

    @abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a text: int32, shape [tokens]. There are no special tokens, even if the text spells one."""

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """``encode`` of each text, but faster: the libraries release the GIL while they work."""
        return list(map(self.encode, texts))

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        """Token ids of rendered templates, each encoded as one text, with the characters of each token."""
        return encode_between(texts, self.special_tokens, self.encode_batch, self.token_bytes)

    @abstractmethod
    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out, and invalid UTF-8 becomes U+FFFD."""


def first_id(tokenizer: Tokenizer) -> int:
    """The token that stands before a text whose own first token is to be predicted: the begin token, or else the end
    token.
    """
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def around(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The ids before and after the text of a document: int32 [tokens]. The last one ends the document."""
    after = tokenizer.suffix if tokenizer.eos_id in tokenizer.suffix else (*tokenizer.suffix, tokenizer.eos_id)
    return np.array(tokenizer.prefix, np.int32), np.array(after, np.int32)


def named_specials(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens that other programs and chat templates know by name, as far as the tokenizer has them."""
    special = tokenizer.special_tokens
    spellings = {token: spelling for spelling, token in special.items()}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    masks = ({"mask_token": mask} for mask in MASKS if mask in special)
    return {name: spellings[token] for name, token in ids.items() if token in spellings} | next(masks, {})


def check_rows(ids: int, rows: int, where: str = "") -> None:
    """Check that a model has a row for each id of its tokenizer: on a device an id beyond them reads the last row.

    Args:
        ids: Ids of the tokenizer.
        rows: Tokens of the model.
        where: The place of the model, for the message; empty: not known.

    Raises:
        BadConfiguration: The tokenizer has more ids.
    """
    if ids > rows:
        raise BadConfiguration(
            f"{where and f'{where}: '}the tokenizer has {ids:,} ids, and the model has rows for {rows:,}; take the "
            "tokenizer of this model, or train the new tokens with spec.from.growVocabulary"
        )
