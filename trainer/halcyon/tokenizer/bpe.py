"""Trains a byte-level BPE tokenizer.

Texts are split by the pattern of GPT-4, but with numbers in groups of two digits instead of three, because a small
vocabulary should not spend a thousand tokens on numbers. ``rustbpe`` counts the parts and finds the merges. It is three
times as fast here as the trainer of ``tokenizers``, and its result does not depend on the number of threads. The result
is a ``tokenizer.json`` that any reader of this format loads: ids 0 to 255 are the bytes, then come the merges in the
order in which they were found, then the special tokens.

The pattern leaves a run of letters, of signs or of white space whole, and each merge in a part reads the whole part. So
runs are cut where they fill a block of 512 characters: the time grows with the text, and no token is longer than two
blocks. A text without such a run has the same merges as without cuts.
"""

import heapq
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import rustbpe
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from halcyon.host.errors import BadConfiguration
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
_BLOCK = 512
_FULL_BLOCK = re.compile(rf"[^\W\d_]{{{_BLOCK}}}|(?:[^\w\s]|_){{{_BLOCK}}}|\s{{{_BLOCK}}}")
_MERGES = re.compile(r"\((\d+)/(\d+) merges\)")
"""How the log of ``rustbpe`` says that N of M merges are done."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = (),
    on_merges: Callable[[int, int], object] = lambda done, total: None,
) -> TokenizerDefinition:
    """Train a tokenizer; the same texts in the same order give the same definition, byte for byte.

    Args:
        texts: Texts to count; read once, one by one, and never all in memory.
        vocab_size: Number of tokens, bytes and special tokens included. The result has fewer if the texts have no more
            pairs to merge.
        special_tokens: Special tokens in addition to ``OWN_SPECIAL_TOKENS``.
        on_merges: Called at about each percent with the merges done, and their greatest number.

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
    cut = (piece for text in texts for piece in pieces(text, CUT_BETWEEN, _PIECE_CHARACTERS))
    parts = chain.from_iterable(map(_cut_runs, cut))
    first = next(parts, None)
    if first is None:
        raise BadConfiguration("spec.tokenizer.bpe: there is no text to train on; give sources with text")
    trainer = rustbpe.Tokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    log = logging.getLogger(rustbpe.__name__)
    log.setLevel(logging.INFO)  # always, because the library asks for the level only once

    def read(record: logging.LogRecord) -> bool:
        if (found := _MERGES.search(record.getMessage())) is not None:
            on_merges(int(found[1]), int(found[2]))
        return False

    log.addFilter(read)
    try:
        trainer.train_from_iterator(chain([first], parts), words, buffer_size=_PIECES_AT_ONCE, pattern=SPLIT_PATTERN)
    finally:
        log.removeFilter(read)
    content = write_tokenizer_json(trainer.get_mergeable_ranks(), special)
    return TokenizerDefinition("tokenizerJson", content, {"beginning": BOS, "end": EOS})


def _cut_runs(text: str) -> Iterator[str]:
    """The text, cut after each block of `_BLOCK` characters that a run of one kind fills."""
    start = 0
    for block in range(0, len(text), _BLOCK):
        if _FULL_BLOCK.match(text, block):
            yield text[start : block + _BLOCK]
            start = block + _BLOCK
    if start < len(text):
        yield text[start:]


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


def find_merge(data: bytes, rank_of: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were merged into a token: the result of applying all earlier merges to its bytes, the lowest
    rank first and then the leftmost pair. The time is that of a heap of its pairs.
    """
    rank, size = rank_of[data], len(data)
    ends, starts = list(range(1, size + 1)), list(range(-1, size - 1))
    """The end of the part that begins at a place, 0: none does; and the beginning of the part before it."""
    pairs = [
        (found, place) for place in range(size - 1) if (found := rank_of.get(data[place : place + 2], rank)) < rank
    ]
    heapq.heapify(pairs)
    for _ in range(size - 2):
        while True:
            if not pairs:
                raise ValueError(f"{data!r} is not a merge of two earlier tokens")
            found, place = heapq.heappop(pairs)
            middle = ends[place]
            if 0 < middle < size and rank_of.get(data[place : ends[middle]]) == found:
                break
        end = ends[place] = ends[middle]
        ends[middle] = 0
        if end < size:
            starts[end] = place
        for first, last in ((starts[place], end), (place, ends[end] if end < size else 0)):
            if first >= 0 and last and (found := rank_of.get(data[first:last], rank)) < rank:
                heapq.heappush(pairs, (found, first))
    return data[: ends[0]], data[ends[0] :]
