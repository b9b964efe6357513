"""ARC: multiple choice of science at school (Clark et al. 2018), as published by its authors (JSON lines) or on the
hub (Parquet).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from halcyon.evals.example import MultipleChoice, letter_choice
from halcyon.evals.rows import Row


def examples(rows: Iterable[Row]) -> Iterator[MultipleChoice]:
    """The examples of a file: ``question``, ``choices`` and ``answerKey``; in the authors' files the choices are inside
    of the question.
    """
    for row in rows:
        question, letters, choices = _parts(row)
        key = row.text("answerKey")
        if key not in letters:
            row.bad(f"the field answerKey is {key}, which is none of {', '.join(letters)}")
        yield letter_choice(row.place, question, letters, choices, letters.index(key))


def _parts(row: Row) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The question, the letters and the choices."""
    question: Any = row.get("question")
    if isinstance(question, dict):
        given = question.get("choices")
        if (
            not isinstance(given, list)
            or not all(isinstance(one, dict) for one in given)
            or not isinstance(question.get("stem"), str)
        ):
            row.bad("the field question has no stem, or its choices are no list of objects")
        return (
            question["stem"],
            row.texts("question.choices.label", [one.get("label") for one in given]),
            row.texts("question.choices.text", [one.get("text") for one in given]),
        )
    choices: Any = row.get("choices")
    if not isinstance(choices, dict):
        row.bad("the field choices is no object with text and label")
    letters = row.texts("choices.label", choices.get("label") or [])
    texts = row.texts("choices.text", choices.get("text") or [])
    if len(letters) != len(texts):
        row.bad(f"there are {len(letters)} labels for {len(texts)} choices")
    return row.text("question"), letters, texts
