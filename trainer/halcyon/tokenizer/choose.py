"""Chooses between a fast encoder and a slow reference encoder, so that ids are always those of the reference.

``tokenizers`` defines the meaning of a ``tokenizer.json``. It is the reference, and encodes 3 to 4 MB/s per core.
``fastokens`` reads the same file, has hand-written scanners for the usual split patterns (PCRE2 runs others) and caches
parts: 50 to 300 MB/s. It is used if it accepts the file and gives the ids of the reference on every text of the probe.
Otherwise the reference encodes, and a warning is logged.
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


def choose_encoder(content: str, reference: ReferenceEncoder, special: Iterable[str]) -> PieceEncoder:
    """The fast encoder if it accepts the file and agrees with the reference on the probe, else the reference.

    Args:
        content: The ``tokenizer.json``.
        reference: The encoder whose ids are correct by definition.
        special: Spellings of the special tokens.
    """
    try:
        tokenizer = fastokens.Tokenizer.from_json_str(content)
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
    else:
        plain = FastEncoder(tokenizer)
        reason = "its ids differ from the reference's"
        for fast in (pair_digits(content, plain), plain):
            try:
                if fast is not None and agree(fast, reference, probe_texts(special)):
                    return fast
            except (ValueError, RuntimeError) as error:  # such as a pattern that needs too many steps
                reason = str(error).split("\n", 1)[0]
    log.warning("fastokens cannot encode with this tokenizer.json (%s): using tokenizers, which is slower", reason)
    return reference
