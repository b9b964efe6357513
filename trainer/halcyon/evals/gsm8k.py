"""GSM8K: word problems of school mathematics (Cobbe et al. 2021), as published by its authors (JSON lines) or on the hub (Parquet).

A solution has the calls of a calculator between ``<<`` and ``>>``, such as ``<<12/60=0.2>>``, and ends with ``####`` and the answer. In a
conversation each call is a part ``python`` with the expression, and a part ``python_output`` with the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from halcyon.evals.answers import final_number, has_number_of
from halcyon.evals.example import Message, Prompt, Question
from halcyon.evals.rows import Row

_CALL = re.compile(r"<<([^<>]*)>>")


def examples(rows: Iterable[Row]) -> Iterator[Question]:
    """The examples of a file: ``question`` and ``answer``."""
    for row in rows:
        question, answer = row.text("question"), row.text("answer")
        if final_number(answer) is None:
            row.bad("the field answer does not end with #### and a number")
        prompt = Prompt(({"role": "user", "content": question},), f"Question: {question}\nAnswer:", ("\nQuestion:",))
        yield Question(row.place, prompt, answer, tuple(parts(answer)))


def parts(answer: str) -> Iterator[Message]:
    """The parts of a published solution."""
    end = 0
    for call in _CALL.finditer(answer):
        if call.start() > end:
            yield {"type": "text", "text": answer[end : call.start()]}
        expression, _, result = call[1].rpartition("=")
        yield {"type": "python", "text": expression or result}
        yield {"type": "python_output", "text": result if expression else ""}
        end = call.end()
    if end < len(answer):
        yield {"type": "text", "text": answer[end:]}


def grade(example: Question, text: str) -> bool:
    """Whether a text has the number of the solution after ``####``."""
    return has_number_of(example.reference, text)
