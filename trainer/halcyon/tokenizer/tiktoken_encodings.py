"""The properties of tiktoken's encodings besides their ranks: split pattern, special tokens, and the address of
OpenAI's file of ranks.

The values are from tiktoken (`tiktoken_ext/openai_public.py`); a test compares them with the installed library. GPT-2's
ranks are those of ``r50k_base``, which are one file instead of two. The patterns are tiktoken's without its possessive
quantifiers and ``\\s++$``, which only make one regular expression engine faster and match the same parts. Fast encoders
know the patterns in this older form.
"""

from collections.abc import Mapping
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"

_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One of tiktoken's encodings."""

    pattern: str
    special_tokens: Mapping[str, int]
    url: str
    """Address of OpenAI's file of ranks."""
    sha256: str
    """SHA-256 (hex) of that file."""


_PLACE = "https://openaipublic.blob.core.windows.net/encodings"
_R50K = Encoding(
    _GPT2_PATTERN,
    {END_OF_TEXT: 50256},
    f"{_PLACE}/r50k_base.tiktoken",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
)

ENCODINGS: Mapping[str, Encoding] = {
    "gpt2": _R50K,
    "r50k_base": _R50K,
    "p50k_base": Encoding(
        _GPT2_PATTERN,
        {END_OF_TEXT: 50256},
        f"{_PLACE}/p50k_base.tiktoken",
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    ),
    "cl100k_base": Encoding(
        _CL100K_PATTERN,
        {
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        f"{_PLACE}/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": Encoding(
        _O200K_PATTERN,
        {END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
        f"{_PLACE}/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
}
