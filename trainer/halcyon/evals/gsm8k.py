"""GSM8K: word problems of school mathematics (Cobbe et al. 2021), as published by its authors (JSON lines) or on the
hub (Parquet).

A solution has the calls of a calculator between ``<<`` and ``>>``, such as ``<<12/60=0.2>>``, and ends with ``####``
and the answer. In a conversation each call is a part ``python`` with the expression, and a part ``python_output`` with
the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation

from halcyon.evals.example import Message, OpenQuestion, Prompt
from halcyon.evals.rows import Row

_CALL = re.compile(r"<<([^<>]*)>>")
_MARKED = re.compile(r"####\s*\$?(-?[0-9][0-9,]*(?:\.[0-9]+)?)")


def examples(rows: Iterable[Row]) -> Iterator[OpenQuestion]:
    """The examples of a file: ``question`` and ``answer``."""
    for row in rows:
        question, answer = row.text("question"), row.text("answer")
        if final_number(answer) is None:
            row.bad("the field answer does not end with #### and a number")
        prompt = Prompt(({"role": "user", "content": question},), f"Question: {question}\nAnswer:", ("\nQuestion:",))
        yield OpenQuestion(row.place, prompt, answer, tuple(parts(answer)))


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


def grade(example: OpenQuestion, text: str) -> bool:
    """Whether a text has the number of the solution after ``####``."""
    return has_number_of(example.reference, text)


def final_number(text: str) -> Decimal | None:
    """The first number of a text after ``####``, such as ``#### 1,234``, without the commas of thousands; None: it has
    none.
    """
    found = _MARKED.search(text)
    if found is None:
        return None
    try:
        return Decimal(found[1].replace(",", ""))
    except InvalidOperation:
        return None


def has_number_of(reference: str, text: str) -> bool:
    """Whether a text has the same marked number as a reference."""
    wanted = final_number(reference)
    return wanted is not None and final_number(text) == wanted
