"""The special tokens: those of tokenizers trained here, and the names under which other tokenizers keep theirs.

A special token stands for no text. Text that merely spells one is encoded as the characters it is made of: a person who can write into a
training set must not be able to end a document or to speak for the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halcyon.errors import BadConfiguration

BOS = "<|bos|>"
EOS = "<|eos|>"
PAD = "<|pad|>"
CHAT_MARKS = (
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
"""Marks of a conversation, named as nanochat names them, so that its templates can be read here."""

TRAINED_HERE = (BOS, EOS, PAD, *CHAT_MARKS)
"""Special tokens of every tokenizer trained here, in the order of their ids."""

BEGINNINGS = (BOS, "<|begin_of_text|>", "<|startoftext|>", "<|begin▁of▁sentence|>", "<|START_OF_TEXT|>", "<bos>", "<s>", "[BOS]", "[CLS]")
"""Usual names of the token that begins a document."""

ENDS = (EOS, "<|end_of_text|>", "<|endoftext|>", "<|end▁of▁sentence|>", "<|END_OF_TEXT|>", "<eos>", "</s>", "[EOS]", "[SEP]")
"""Usual names of the token that ends a document."""

PADDINGS = (PAD, "<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|PAD|>")
"""Usual names of the token that fills a sequence."""


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """The ids that a document needs."""

    bos: int
    eos: int
    pad: int


def find_document_tokens(special: Mapping[str, int], where: str, *, beginning: str | None = None, end: str | None = None) -> DocumentTokens:
    """Choose the tokens that begin, end and fill: the ones asked for, or the first of the usual names.

    A tokenizer that has only a beginning or only an end uses it for both (GPT-2 does); one without padding pads with its end.

    Args:
        special: Id by spelling.
        where: The field to blame, such as ``spec.tokenizer.tokenizerJson``.
        beginning: Spelling of the token that begins a document, if the user named it.
        end: Spelling of the token that ends a document, if the user named it.

    Raises:
        BadConfiguration: A named token is absent, or none of the usual names is there.
    """
    for field, name in (("beginning", beginning), ("end", end)):
        if name is not None and name not in special:
            raise BadConfiguration(f"{where}.{field}: the tokenizer has no special token {name!r}; {_known(special)}")
    bos = special[beginning] if beginning is not None else _first(special, BEGINNINGS)
    eos = special[end] if end is not None else _first(special, ENDS)
    bos, eos = (eos if bos is None else bos), (bos if eos is None else eos)
    if bos is None or eos is None:
        raise BadConfiguration(f"{where}.beginning: no special token has one of the usual names, so name it; {_known(special)}")
    pad = _first(special, PADDINGS)
    return DocumentTokens(bos, eos, eos if pad is None else pad)


def _first(special: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((special[name] for name in names if name in special), None)


def _known(special: Mapping[str, int], most: int = 8) -> str:
    names = list(special)
    if not names:
        return "it has no special tokens"
    return "it has " + ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
