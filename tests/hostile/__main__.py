"""``make hostile``: gives every hostile input to the program, and writes docs/hostile-inputs.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.hostile.page import PATH, render, shown
from tests.hostile.rows import ROWS
from tests.hostile.trying import trying

with tempfile.TemporaryDirectory() as folder, trying() as ask:
    found = {}
    for number, row in enumerate(ROWS):
        tried = ask(row, Path(folder).resolve() / str(number))
        found[row.words, row.shown] = shown(tried)
        sys.stdout.write(
            f"{tried.code} (expected {row.code:d}) {tried.seconds:.1f} s, {tried.memory_bytes >> 20} MiB: {row.words}\n"
        )
    PATH.write_text(render(lambda row: found[row.words, row.shown]), encoding="utf-8")
