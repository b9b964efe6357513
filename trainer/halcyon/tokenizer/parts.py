"""What the parts of a tokenizer.json do with a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halcyon.tokenizer.byte_level import SPELLINGS


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
