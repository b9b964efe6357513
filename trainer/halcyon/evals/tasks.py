"""The published benchmarks: from the rows of their files to examples, and whether a text is right.

- ARC: multiple choice of science at school (Clark et al. 2018), as published by its authors (JSON lines) or on the hub
  (Parquet).
- MMLU: multiple choice in 57 subjects (Hendrycks et al. 2021), as its authors published it (CSV without a header) or on
  the hub.
- SmolTalk: conversations (Ben Allal et al. 2025), as published on the hub (Parquet) or as JSON lines. The last answer
  is scored.
- GSM8K: word problems of school mathematics (Cobbe et al. 2021), as published by its authors (JSON lines) or on the
  hub (Parquet). A solution ends with ``####`` and the answer.
- SpellingBee: how often a letter is in a word. Each example is a function of a list of words and of its number.
- HumanEval: functions that a model completes and tests check (Chen et al. 2021), as published
  (``HumanEval.jsonl.gz``) or on the hub.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from halcyon.evals.example import GivenReply, Message, MultipleChoice, OpenQuestion, Prompt, letter_choice
from halcyon.evals.rows import Row
from halcyon.evals.sandbox.running import Program


def arc(rows: Iterable[Row]) -> Iterator[MultipleChoice]:
    """The examples of a file: ``question``, ``choices`` and ``answerKey``; in the authors' files the choices are inside
    of the question.
    """
    for row in rows:
        question, letters, choices = _question(row)
        key = row.text("answerKey")
        if key not in letters:
            row.bad(f"the field answerKey is {key}, which is none of {', '.join(letters)}")
        yield letter_choice(row.place, question, letters, choices, letters.index(key), images=row.images())


def _question(row: Row) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The question, the letters and the choices."""
    question: Any = row.get("question")
    if isinstance(question, dict):
        given = question.get("choices")
        if (
            not isinstance(given, list)
            or not all(isinstance(choice, dict) for choice in given)
            or not isinstance(question.get("stem"), str)
        ):
            row.bad("the field question has no stem, or its choices are no list of objects")
        return (
            question["stem"],
            row.texts("question.choices.label", [choice.get("label") for choice in given]),
            row.texts("question.choices.text", [choice.get("text") for choice in given]),
        )
    choices: Any = row.get("choices")
    if not isinstance(choices, dict):
        row.bad("the field choices is no object with text and label")
    letters = row.texts("choices.label", choices.get("label") or [])
    texts = row.texts("choices.text", choices.get("text") or [])
    if len(letters) != len(texts):
        row.bad(f"there are {len(letters)} labels for {len(texts)} choices")
    return row.text("question"), letters, texts


LETTERS = ("A", "B", "C", "D")


def mmlu(rows: Iterable[Row]) -> Iterator[MultipleChoice]:
    """The examples of a file. The subject of a CSV file is its name without ``_test``, ``_dev`` or ``_val``."""
    for row in rows:
        if "0" in row.values:
            answer = row.text("5").strip()
            if answer not in LETTERS:
                row.bad(f"the answer is {answer}, which is none of {', '.join(LETTERS)}")
            choices: tuple[str, ...] = tuple(row.get(str(place)) for place in range(1, 5))
            gold, question, subject = LETTERS.index(answer), row.text("0"), row.file.stem
            for ending in ("_test", "_dev", "_val"):
                subject = subject.removesuffix(ending)
        else:
            choices, gold, question = row.texts("choices"), row.integer("answer", 3), row.text("question")
            subject = str(row.values.get("subject") or "") or None
        if len(choices) != len(LETTERS):
            row.bad(f"there are {len(choices)} choices; MMLU has {len(LETTERS)}")
        yield letter_choice(row.place, question, LETTERS, choices, gold, subject, row.images())


def smoltalk(rows: Iterable[Row]) -> Iterator[GivenReply]:
    """The examples of a file: ``messages`` with ``role`` and ``content``; a system message may come first."""
    for row in rows:
        messages = _checked(row)
        before = messages[:-1]
        plain = "\n\n".join(str(message["content"]) for message in before) + "\n\n"
        yield GivenReply(row.place, Prompt(before, plain), str(messages[-1]["content"]))


def _checked(row: Row) -> tuple[Message, ...]:
    given: Any = row.get("messages")
    if not isinstance(given, list) or not all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in given
    ):
        row.bad("the field messages is no list of objects with role and content")
    system = 1 if given and given[0].get("role") == "system" else 0
    roles = [message.get("role") for message in given[system:]]
    if len(roles) < 2 or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        row.bad("after a system message, user and assistant must take turns, and the assistant must have the last one")
    if not given[-1]["content"]:
        row.bad("the last answer is empty")
    return tuple({"role": message["role"], "content": message["content"]} for message in given)


_MARKED = re.compile(r"####\s*\$?(-?[0-9][0-9,]*(?:\.[0-9]+)?)")


def gsm8k(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a file: ``question`` and ``answer``."""
    for row in rows:
        question, answer = row.text("question"), row.text("answer")
        if final_number(answer) is None:
            row.bad("the field answer does not end with #### and a number")
        yield OpenQuestion(row.place, _asked(question, row.images()), answer)


def _asked(question: str, images: tuple[bytes, ...] = ()) -> Prompt:
    return Prompt(({"role": "user", "content": question},), f"Question: {question}\nAnswer:", ("\nQuestion:",), images)


def final_number(text: str) -> Decimal | None:
    """The first number of a text after ``####``, such as ``#### 1,234``, without the commas of thousands; None: it has
    none.
    """
    match = _MARKED.search(text)
    return None if match is None else Decimal(match[1].replace(",", ""))


def has_right_number(example: OpenQuestion, text: str) -> bool:
    """Whether a text has the number of the solution after ``####``."""
    return has_number_of(example.reference, text)


def has_number_of(reference: str, text: str) -> bool:
    """Whether a text has the same marked number as a reference."""
    wanted = final_number(reference)
    return wanted is not None and final_number(text) == wanted


COUNT = 256
"""Examples that are generated from a list."""
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_OF_THE_WORD = 0.9
"""Part of the questions whose letter is in the word."""
_QUESTIONS = (
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


def spelling_bee(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a list of words, one on each line."""
    words: list[str] = []
    for row in rows:
        word = row.text("word")
        if not word.isalpha():
            row.bad(f"{word!r} is no word; give one word of letters on each line")
        words.append(word.lower())
    for number in range(COUNT if words else 0):
        yield _spelling_question(words, number)


def _spelling_question(words: list[str], number: int) -> OpenQuestion:
    drawn = random.Random(f"spelling bee test {number}")  # noqa: S311 - the examples must be the same every time
    word, letter, asked = drawn_question(words, drawn)
    return OpenQuestion(f"test {number} ({word}, {letter})", _asked(asked), f"#### {word.count(letter)}")


def drawn_question(words: Sequence[str], drawn: random.Random) -> tuple[str, str, str]:
    """A word, a letter, and a question about them."""
    word = drawn.choice(words)
    letter = drawn.choice(word) if drawn.random() < _OF_THE_WORD else drawn.choice(_ALPHABET)
    quotes = [drawn.choice(_QUOTES) for _ in range(2)]
    asked = drawn.choice(_QUESTIONS).format(
        letter=f"{quotes[0]}{letter}{quotes[0]}", word=f"{quotes[1]}{word}{quotes[1]}"
    )
    return word, letter, asked


_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```")
"""A function that continues the prompt has ended before each of these (Chen et al. 2021, section 3.1)."""
_BLOCK = re.compile(r"```(?:[Pp]ython|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def human_eval(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a file: ``task_id``, ``prompt``, ``canonical_solution``, ``test`` and ``entry_point``."""
    for row in rows:
        prompt, test, function = row.text("prompt"), row.text("test"), row.text("entry_point")
        if not _NAME.fullmatch(function):
            row.bad(f"the field entry_point is {function!r}, which is no name of a function")
        yield OpenQuestion(
            f"{row.place} ({row.text('task_id')})",
            Prompt(({"role": "user", "content": prompt},), prompt.rstrip("\n"), _STOP),
            f"{prompt}{row.text('canonical_solution')}",
            {"prompt": prompt, "test": test, "entry_point": function},
        )


def human_eval_program(example: OpenQuestion, text: str) -> Program:
    """The program that decides whether a text is right: the function, and the published tests as checks."""
    prompt, function = example.facts["prompt"], example.facts["entry_point"]
    block = _BLOCK.search(text)
    code = block[1] if block is not None else text
    if re.search(rf"^def {function}\b", code, re.MULTILINE):
        # Imports and other functions above the function, which an answer with the whole function may leave out.
        source = f"{prompt[: max(0, prompt.rfind(f'def {function}'))]}\n{code}\n"
    elif code.startswith("\n"):  # the text continues the prompt
        source = f"{prompt.rstrip()}{code}\n"
    elif prompt.endswith("\n"):
        source = f"{prompt}{code}\n"
    else:
        source = f"{prompt.rstrip()}\n{code}\n"
    return Program(source, f"{example.facts['test']}\ncheck({function})\n")
