"""SpellingBee: how often a letter is in a word. The examples are generated from a list of words.

Each example is a function of the list and of its number. The solution spells the word, counts by hand, and checks the
count with the calculator.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from halcyon.evals.example import Message, OpenQuestion, Prompt
from halcyon.evals.rows import Row

COUNT = 256
"""Examples that are generated from a list."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_OF_THE_WORD = 0.9
"""Part of the questions whose letter is in the word."""
_ASKED = (
    "How many {letter} are in {word}?",
    "How often does the letter {letter} occur in the word {word}?",
    "Count the {letter} in {word}.",
    "In {word}, how many letters are {letter}?",
    "number of {letter} in {word}",
    "Wie oft kommt {letter} in {word} vor?",
    "Combien de {letter} y a-t-il dans {word} ?",
    "¿Cuántas {letter} hay en {word}?",
)
_QUOTES = ("", "'", '"')


def examples(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a list of words, one on each line."""
    words: list[str] = []
    for row in rows:
        word = row.text("word")
        if not word.isalpha():
            row.bad(f"{word!r} is no word; give one word of letters on each line")
        words.append(word.lower())
    for number in range(COUNT if words else 0):
        yield _example(words, number)


def _example(words: list[str], number: int) -> OpenQuestion:
    drawn = random.Random(f"spelling bee test {number}")  # noqa: S311 - the examples must be the same every time
    word, letter, asked = drawn_question(words, drawn)
    count = word.count(letter)
    prompt = Prompt(({"role": "user", "content": asked},), f"Question: {asked}\nAnswer:", ("\nQuestion:",))
    return OpenQuestion(
        f"test {number} ({word}, {letter})", prompt, f"#### {count}", tuple(_solution(word, letter, count))
    )


def drawn_question(words: Sequence[str], drawn: random.Random) -> tuple[str, str, str]:
    """A word, a letter, and a question about them."""
    word = drawn.choice(words)
    letter = drawn.choice(word) if drawn.random() < _OF_THE_WORD else drawn.choice(_ALPHABET)
    quotes = [drawn.choice(_QUOTES) for _ in range(2)]
    asked = drawn.choice(_ASKED).format(letter=f"{quotes[0]}{letter}{quotes[0]}", word=f"{quotes[1]}{word}{quotes[1]}")
    return word, letter, asked


def _solution(word: str, letter: str, count: int) -> Iterator[Message]:
    lines, found = [f"The letters of {word}: {','.join(word)}", f"Counting {letter}:"], 0
    for place, one in enumerate(word, 1):
        found += one == letter
        # No space before a letter: with one it would be another token.
        lines.append(f"{place}:{one}" + (f" yes, {found}" if one == letter else ""))
    yield {"type": "text", "text": "\n".join([*lines, "", "The calculator says: "])}
    yield {"type": "python", "text": f"'{word}'.count('{letter}')"}
    yield {"type": "python_output", "text": str(count)}
    yield {"type": "text", "text": f"\n\n#### {count}"}
