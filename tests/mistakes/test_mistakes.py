"""The answer to each mistake is one sentence and the right exit code, as docs/mistakes.md shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mistakes.page import PATH, read, render
from tests.mistakes.row import Mistake
from tests.mistakes.rows import ROWS
from tests.mistakes.trying import Answer, make_mistake

SHOWN = read(PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow, pytest.mark.variant] if row.slow else [], id=row.words)
        for row in ROWS
    ],
)
def test_one_sentence_and_the_right_exit_code(row: Mistake, tmp_path: Path) -> None:
    answer = make_mistake(row, tmp_path / "work")
    assert answer.code == row.code, answer.sentence
    assert len(answer.lines) == 1, answer.lines
    assert SHOWN[row.words, row.shown] == Answer(row.code, (answer.sentence,)), (
        "run 'make mistakes' and check the change"
    )


def test_the_page_has_the_rows_in_their_order_and_no_others() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert render(lambda row: SHOWN[row.words, row.shown]) == text
    assert len(SHOWN) == len(ROWS) >= 60
