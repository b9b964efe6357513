"""Each hostile input has a sentence or a right result, within its time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.rows import ROWS
from tests.hostile.server import MEMORY_BYTES, SECONDS
from tests.hostile.trying import ANSWERS, Try, trying
from tests.mistakes.row import Mistake

EXPECTED: dict[str, str] = json.loads(ANSWERS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ask() -> Iterator[Try]:
    with trying() as ask:
        yield ask


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row.words) for row in ROWS])
def test_an_answer_within_the_budget(row: Mistake, tmp_path: Path, ask: Try) -> None:
    tried = ask(row, tmp_path / "work")
    assert tried.code == row.code, tried
    assert "Traceback" not in tried.sentence
    assert tried.seconds < SECONDS
    assert tried.memory_bytes < MEMORY_BYTES
    assert tried.last == EXPECTED[row.words] != "", "run 'make hostile' and check the change"


def test_each_row_has_an_answer_and_no_answer_is_left() -> None:
    assert list(EXPECTED) == [row.words for row in ROWS]
    assert len(ROWS) >= 60
