"""Trains a byte-level BPE tokenizer.

Texts are split by the pattern of GPT-4, but with numbers in groups of two digits instead of three, because a small
vocabulary should not spend a thousand tokens on numbers. ``rustbpe`` counts the parts and finds the merges. It is three
times as fast here as the trainer of ``tokenizers``, and its result does not depend on the number of threads. The result
is a ``tokenizer.json`` that any reader of this format loads: ids 0 to 255 are the bytes, then come the merges in the
order in which they were found, then the special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import rustbpe
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from halcyon.errors import BadConfiguration
from halcyon.tokenizer.byte_level import spell
from halcyon.tokenizer.cut import CUT_BETWEEN, pieces
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.special import BOS, EOS, OWN_SPECIAL_TOKENS

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4's pattern (tiktoken's ``cl100k_base``) with numbers in groups of two."""

_PIECE_CHARACTERS = 2**15
_PIECES_AT_ONCE = 512


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> TokenizerDefinition:
    """Train a tokenizer; the same texts in the same order give the same definition, byte for byte.

    Args:
        texts: Texts to count; read once, one by one, and never all in memory.
        vocab_size: Number of tokens, bytes and special tokens included. The result has fewer if the texts have no more
            pairs to merge.
        special_tokens: Special tokens in addition to ``OWN_SPECIAL_TOKENS``.

    Raises:
        BadConfiguration: There is no text, a special token is given twice, or the vocabulary is too small for bytes and
            special tokens.
    """
    special = [*OWN_SPECIAL_TOKENS, *special_tokens]
    if len(set(special)) < len(special):
        twice = next(name for name in special if special.count(name) > 1)
        raise BadConfiguration(
            f"spec.tokenizer.bpe.specialTokens: {twice!r} is given twice; name each token once, and do not name "
            "Halcyon's own tokens"
        )
    words = vocab_size - len(special)
    if words < 256:
        raise BadConfiguration(
            f"spec.tokenizer.bpe.vocabSize: {vocab_size} leaves no room for 256 bytes and {len(special)} special "
            f"tokens; use {256 + len(special)} or more"
        )
    parts = (part for text in texts for part in pieces(text, CUT_BETWEEN, _PIECE_CHARACTERS) if part)
    first = next(parts, None)
    if first is None:
        raise BadConfiguration("spec.tokenizer.bpe: there is no text to train on; give sources with text")
    trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    trainer.train_from_iterator(chain([first], parts), words, buffer_size=_PIECES_AT_ONCE, pattern=SPLIT_PATTERN)
    content = write_tokenizer_json(trainer.get_mergeable_ranks(), special)
    return TokenizerDefinition("tokenizerJson", content, {"beginning": BOS, "end": EOS})


def write_tokenizer_json(ranks: Iterable[tuple[bytes, int]], special: Sequence[str]) -> bytes:
    """A ``tokenizer.json`` of ranked byte strings: the 256 bytes first, then the merges, then the special tokens."""
    by_rank = [bytes(data) for data, _ in sorted(ranks, key=lambda entry: entry[1])]
    rank_of = {data: rank for rank, data in enumerate(by_rank)}
    merges = [find_merge(data, rank_of) for data in by_rank[256:]]
    vocabulary = {spell(data): rank for rank, data in enumerate(by_rank)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [(spell(left), spell(right)) for left, right in merges]))
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return (tokenizer.to_str(pretty=True) + "\n").encode()


def find_merge(data: bytes, rank_of: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged into a token: the result of applying all earlier merges to its bytes."""
    rank = rank_of[data]
    parts = [data[index : index + 1] for index in range(len(data))]
    while len(parts) > 2:
        pairs = [rank_of.get(left + right, rank) for left, right in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= rank:
            raise ValueError(f"{data!r} is not a merge of two earlier tokens")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
