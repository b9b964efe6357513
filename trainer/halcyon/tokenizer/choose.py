"""How the fast encoder is held to the ids of the slow one.

``tokenizers`` defines what a ``tokenizer.json`` means; it is the reference, and encodes 3 to 4 MB/s a core. ``fastokens`` reads the same
file, knows the usual split patterns as hand-written scanners (others run through PCRE2) and keeps parts it has seen: 50 to 300 MB/s. It is
used where it accepts the file and gives the reference's ids on every text of the probe; else the reference does the work, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import fastokens
import numpy as np

from halcyon.tokenizer.digit_pairs import pair_digits
from halcyon.tokenizer.encoders import FastEncoder, ReferenceEncoder
from halcyon.tokenizer.probe import probe_texts
from halcyon.tokenizer.text import PieceEncoder

log = logging.getLogger(__name__)


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
        plain = FastEncoder(tokenizer)
        for fast in (pair_digits(content, plain), plain):
            if fast is not None and agree(fast, reference, probe_texts(special)):
                return fast, tokenizer
        reason = "its ids differ from the reference's"
    log.warning("fastokens cannot encode with this tokenizer.json (%s): tokenizers does, slower", reason)
    return reference, None
