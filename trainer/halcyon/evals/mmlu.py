"""MMLU: multiple choice in 57 subjects (Hendrycks et al. 2021), as its authors published it (CSV without a header)
or on the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from halcyon.evals.example import MultipleChoice, letter_choice
from halcyon.evals.rows import Row

LETTERS = ("A", "B", "C", "D")


def examples(rows: Iterable[Row]) -> Iterator[MultipleChoice]:
    """The examples of a file. The subject of a CSV file is its name without ``_test``, ``_dev`` or ``_val``."""
    for row in rows:
        if "0" in row.values:
            answer = row.text("5").strip()
            if answer not in LETTERS:
                row.bad(f"the answer is {answer}, which is none of {', '.join(LETTERS)}")
            choices, gold, question = (
                tuple(row.get(str(place)) for place in range(1, 5)),
                LETTERS.index(answer),
                row.text("0"),
            )
            subject = row.file.stem
            for ending in ("_test", "_dev", "_val"):
                subject = subject.removesuffix(ending)
        else:
            choices, gold, question = row.texts("choices"), row.integer("answer", 3), row.text("question")
            subject = str(row.values.get("subject") or "") or None
        if len(choices) != len(LETTERS):
            row.bad(f"there are {len(choices)} choices; MMLU has {len(LETTERS)}")
        yield letter_choice(row.place, question, LETTERS, choices, gold, subject)
