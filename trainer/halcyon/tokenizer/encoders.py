"""The libraries that encode with a ``tokenizer.json``, and how the fast one is held to the slow one's ids.

``tokenizers`` defines what a ``tokenizer.json`` means; it is the reference, and encodes 3 to 4 MB/s a core. ``fastokens`` reads the same
file, knows the usual split patterns as hand-written scanners (others run through PCRE2) and keeps parts it has seen: 50 to 300 MB/s. It is
used where it accepts the file and gives the reference's ids on every text of the probe; else the reference does the work, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import fastokens
import numpy as np
import tokenizers

from halcyon.tokenizer.probe import probe_texts
from halcyon.tokenizer.text import PieceEncoder

log = logging.getLogger(__name__)


class ReferenceEncoder:
    """Encodes with ``tokenizers``."""

    name = "tokenizers"

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


class FastEncoder:
    """Encodes with ``fastokens``, which works on all cores and releases the interpreter's lock (``FASTOKENS_BPE_THREADS=1``: on one)."""

    name = "fastokens"

    def __init__(self, tokenizer: fastokens.Tokenizer, *, marked: bool = False) -> None:
        self._tokenizer = tokenizer
        self._marked = marked

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32; special tokens only if made with ``marked``."""
        ids, offsets = self._tokenizer.encode_batch_flat(list(texts), split_special_tokens=not self._marked)
        flat = np.frombuffer(ids, np.uint32).astype(np.int32)
        return np.split(flat, np.frombuffer(offsets, np.uint64)[1:-1].astype(np.int64)) if texts else []


def agree(fast: PieceEncoder, reference: PieceEncoder, texts: Sequence[str]) -> bool:
    """Whether two encoders give the same ids for each of the texts."""
    return all(np.array_equal(ids, expected) for ids, expected in zip(fast(texts), reference(texts), strict=True))


def choose_encoder(content: str, reference: ReferenceEncoder, special: Iterable[str]) -> tuple[PieceEncoder, fastokens.Tokenizer | None]:
    """The fast encoder if it takes the file and agrees with the reference on the probe, else the reference.

    Args:
        content: The ``tokenizer.json``.
        reference: The encoder that is right by definition.
        special: Spellings of the special tokens.

    Returns:
        The encoder, and the fast library's tokenizer if it is the one that encodes.
    """
    try:
        tokenizer = fastokens.Tokenizer.from_json_str(content)
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
    else:
        fast = FastEncoder(tokenizer)
        if agree(fast, reference, probe_texts(special)):
            return fast, tokenizer
        reason = "its ids differ from the reference's"
    log.warning("fastokens cannot encode with this tokenizer.json (%s): tokenizers does, slower", reason)
    return reference, None
