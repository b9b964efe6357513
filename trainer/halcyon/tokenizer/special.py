"""The special tokens of tokenizers trained by Halcyon, and the usual names of special tokens in other tokenizers.

A special token represents no text. Text that spells a special token is encoded as its characters, because an author of
training text must not be able to end a document or to take the user's role.
"""

from collections.abc import Mapping

from halcyon.host.errors import BadConfiguration

_MOST_SHOWN = 8

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
"""Marks of a conversation, with the names of nanochat, so that its templates work."""

OWN_SPECIAL_TOKENS = (BOS, EOS, PAD, *CHAT_MARKS)
"""Special tokens of every tokenizer trained by Halcyon, in the order of their ids."""

BEGINNINGS = (
    BOS,
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<|begin▁of▁sentence|>",
    "<|START_OF_TEXT|>",
    "<bos>",
    "<s>",
    "[BOS]",
    "[CLS]",
)
"""Usual names of the token that begins a document."""

ENDS = (
    EOS,
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end▁of▁sentence|>",
    "<|END_OF_TEXT|>",
    "<eos>",
    "</s>",
    "[EOS]",
    "[SEP]",
)
"""Usual names of the token that ends a document."""

PADDINGS = (PAD, "<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|PAD|>")
"""Usual names of the token that fills a sequence."""


def find_document_tokens(
    special: Mapping[str, int],
    where: str,
    *,
    beginning: str | None,
    end: str | None,
    padding: str | None,
) -> tuple[int | None, int, int]:
    """Choose the begin, end and padding tokens: the named ones, or those with the first usual name.

    A tokenizer that has only a begin token ends documents with it. Without a padding token the end token pads.

    Returns:
        The begin, end and padding ids. The first is None if the tokenizer has no begin token.

    Args:
        special: Id of each special token by its spelling.
        where: The field for error messages, such as ``spec.tokenizer.tokenizerJson``.
        beginning: Spelling of the begin token, if it is named. Empty: there is none, whatever the names are.
        end: Spelling of the end token, if it is named.
        padding: Spelling of the padding token, if it is named. One that does not exist counts as not named.

    Raises:
        BadConfiguration: A named token does not exist, or no special token has a usual name.
    """
    for field, name in (("beginning", beginning), ("end", end)):
        if name and name not in special:
            raise BadConfiguration(f"{where}.{field}: the tokenizer has no special token {name!r}; {_known(special)}")
    bos = _first(special, BEGINNINGS) if beginning is None else special.get(beginning)
    eos = special[end] if end else _first(special, ENDS)
    eos = bos if eos is None else eos
    if eos is None:
        raise BadConfiguration(
            f"{where}.end: no special token has one of the usual names, so name it; {_known(special)}"
        )
    pad = special.get(padding or "", _first(special, PADDINGS))
    return bos, eos, eos if pad is None else pad


def _first(special: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((special[name] for name in names if name in special), None)


def _known(special: Mapping[str, int]) -> str:
    names = list(special)
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"it has {', '.join(names[:_MOST_SHOWN])}{more}" if names else "it has no special tokens"
