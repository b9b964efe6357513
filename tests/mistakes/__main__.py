"""``make mistakes``: makes every mistake, and writes docs/mistakes.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.mistakes.page import PATH, render
from tests.mistakes.rows import ROWS
from tests.mistakes.trying import make_mistake

with tempfile.TemporaryDirectory() as folder:
    found = {}
    for number, row in enumerate(ROWS):
        answer = found[row.words, row.command] = make_mistake(row, Path(folder).resolve() / str(number))
        sys.stdout.write(f"{answer.code} (expected {row.code:d}) {row.words}: {answer.sentence}\n")
    PATH.write_text(render(lambda row: found[row.words, row.command]), encoding="utf-8")
