"""Each hostile input has a sentence or a right result, within its time and memory, as docs/hostile-inputs.md shows
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.page import PATH, read, render, shown
from tests.hostile.row import MEMORY_BYTES, SECONDS, Hostile
from tests.hostile.rows import ROWS
from tests.hostile.trying import Try, trying

SHOWN = read(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ask() -> Iterator[Try]:
    with trying() as ask:
        yield ask


@pytest.mark.slow
@pytest.mark.parametrize("row", [pytest.param(row, id=row.words) for row in ROWS])
def test_an_answer_within_the_budget(row: Hostile, tmp_path: Path, ask: Try) -> None:
    tried = ask(row, tmp_path / "work")
    assert tried.code == row.code, tried
    assert "Traceback" not in tried.errors, tried.errors
    assert tried.sentence
    assert tried.seconds < SECONDS
    assert tried.memory_bytes < MEMORY_BYTES
    found, expected = shown(tried), SHOWN[row.words, row.shown]
    assert (found.size, found.sentence) == (expected.size, expected.sentence), "run 'make hostile' and check the change"


def test_the_page_has_the_rows_in_their_order_and_no_others() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert render(lambda row: SHOWN[row.words, row.shown]) == text
    assert len(SHOWN) == len(ROWS) >= 60
    assert not [row for row in SHOWN.values() if "too" in (row.time.split()[0], row.memory.split()[0])]
