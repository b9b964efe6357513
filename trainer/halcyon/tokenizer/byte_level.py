"""The alphabet of byte-level BPE, the bytes of tokens in the two usual spellings, and which spelling a file uses.

GPT-2 writes each byte as one printable character, so that a vocabulary can be stored as text. The printable characters
of Latin-1 stand for their own bytes; the characters from U+0100 on stand for the other 68 bytes (Radford et al., 2019,
`encoder.py`).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

SPELLINGS = tuple(chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256))
"""The character for each byte."""

_TABLE = dict(enumerate(SPELLINGS))
_BYTES = {spelling: byte for byte, spelling in enumerate(SPELLINGS)}
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's character for a space."""


def spell(data: bytes) -> str:
    """Bytes in the alphabet of byte-level BPE."""
    return data.decode("latin-1").translate(_TABLE)


def byte_level_pieces(tokens: Iterable[str]) -> list[bytes]:
    """The bytes of each token of a byte-level vocabulary; a character outside of the alphabet stands for itself."""
    return [b"".join(bytes([_BYTES[sign]]) if sign in _BYTES else sign.encode() for sign in token) for token in tokens]


def sentence_piece_pieces(tokens: Iterable[str]) -> list[bytes]:
    """The bytes of each token of a vocabulary in SentencePiece's spelling.

    The space that SentencePiece adds before a text counts, so the measured length of a document is one byte too large.
    """
    return [
        bytes([int(token[3:5], 16)])
        if _BYTE_FALLBACK.fullmatch(token)
        else token.replace(_SPACE, " ").removeprefix("##").encode()
        for token in tokens
    ]


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether the vocabulary uses the alphabet of byte-level BPE."""
    parts = [document.get("pre_tokenizer"), document.get("decoder")]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("type") == "ByteLevel":
                return True
            parts += [*part.get("pretokenizers", []), *part.get("decoders", [])]
    return False


def is_independent(document: Mapping[str, Any]) -> bool:
    """Whether the ids of a text between special tokens depend on this text alone, and stand for all its bytes, if the
    text is in NFC.

    That is byte-level BPE with all bytes, which adds no space, and finds special tokens as they are spelled.
    """
    model, pre_tokenizer = document["model"], document.get("pre_tokenizer")
    added = document.get("added_tokens") or []
    return (
        model.get("type") == "BPE"
        and model["vocab"].keys() >= set(SPELLINGS)
        and (document.get("normalizer") or {"type": "NFC"}).get("type") == "NFC"
        and pre_tokenizer is not None
        and is_byte_level({"pre_tokenizer": pre_tokenizer})
        and _only_splits(pre_tokenizer)
        and not any(token.get(flag) for token in added for flag in ("lstrip", "rstrip", "single_word"))
        and not any(token.get("normalized") for token in added if token.get("special"))
    )


def _only_splits(part: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer leaves all of a text, and adds nothing."""
    match part.get("type"):
        case "Sequence":
            return all(map(_only_splits, part["pretokenizers"]))
        case "ByteLevel":
            return not part.get("add_prefix_space")
        case "Split" | "Punctuation":
            return part.get("behavior") != "Removed"
        case kind:
            return kind == "Digits"
