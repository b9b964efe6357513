"""``make hostile``: gives every hostile input to the program, and keeps its answers in `answers.json`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.hostile.rows import ROWS
from tests.hostile.trying import ANSWERS, trying

with tempfile.TemporaryDirectory() as folder, trying() as ask:
    found: dict[str, str] = {}
    for number, row in enumerate(ROWS):
        tried = ask(row, Path(folder).resolve() / str(number))
        found[row.words] = tried.last
        sys.stdout.write(
            f"{tried.code} (expected {row.code:d}) {tried.seconds:.1f} s, {tried.memory_bytes >> 20} MiB: {row.words}\n"
        )
    ANSWERS.write_text(f"{json.dumps(found, indent=1, ensure_ascii=False)}\n", encoding="utf-8")
