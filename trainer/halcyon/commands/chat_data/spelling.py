"""Words to spell, and questions about the number of their letters. Pure.

The questions are those of SpellingBee (`halcyon.evals.spelling_bee`), with a shorter answer: the letters of the word,
with a running count behind each letter that is asked for, and the number as the task expects it. The words of the
evaluation are not among those of the training.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from halcyon.commands.chat_data.rows import Turn
from halcyon.evals.spelling_bee import drawn_question

MOST_WORDS = 1500
"""Words of a list, the most frequent ones."""
_WORD = re.compile(r"(?<![A-Za-z0-9_.'`])[a-z]{3,10}(?![A-Za-z0-9_'`(])")
_HELD_OUT = 8
"""One of this number of words is for the evaluation."""


@dataclass(frozen=True)
class Words:
    """Words of a text, in the order of the alphabet.

    Attributes:
        train: Words for conversations.
        test: Words for the evaluation.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]


def words_of(texts: Iterable[str]) -> Words:
    """The most frequent words of texts.

    A hash of the word decides its part, so a word keeps it in every version of the text.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    parts: dict[bool, list[str]] = {False: [], True: []}
    for word in sorted(ranked):
        parts[hashlib.sha256(word.encode()).digest()[0] % _HELD_OUT == 0].append(word)
    return Words(tuple(parts[False]), tuple(parts[True]))


def spelled(words: Sequence[str]) -> Iterator[tuple[Turn, ...]]:
    """Each word, spelled."""
    for word in words:
        yield ((f"Spell {word}.", ",".join(word)),)


def counted(words: Sequence[str], split: str, number: int) -> Iterator[tuple[Turn, ...]]:
    """Questions about letters of words, drawn at random, the same every time.

    Args:
        words: The words.
        split: Name of the random numbers, such as ``train``.
        number: Number of questions.
    """
    for place in range(number):
        word, letter, asked = drawn_question(words, random.Random(f"chat spelling {split} {place}"))  # noqa: S311 - the same every time
        yield ((asked, answer(word, letter)),)


def answer(word: str, letter: str) -> str:
    """The letters of a word with a running count, and the count: ``s,t,r 1,a,w,b,e,r 2,r 3,y``, then ``#### 3``."""
    found, shown = 0, list[str]()
    for one in word:
        found += one == letter
        shown.append(f"{one} {found}" if one == letter else one)
    return f"{','.join(shown)}\n\n#### {found}"
