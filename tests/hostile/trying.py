"""Gives hostile inputs to the program, and reads its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mistakes.row import Mistake
from tests.mistakes.trying import Answer, answer, environment, prepare
from tests.suite.limits import limit

ANSWERS = Path(__file__).with_name("answers.json")
"""What the program says about each row, by its words: the last line of its errors, or of its output without errors."""
Try = Callable[[Mistake, Path], Answer]


@contextmanager
def trying() -> Iterator[Try]:
    """A process that tries inputs, for the duration of the context."""
    command = [sys.executable, "-m", "tests.hostile.server"]
    variables = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "RUST_BACKTRACE": "0",
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(row: Mistake, folder: Path) -> Answer:
            request = {
                "command": prepare(row, folder),
                "folder": str(folder),
                "environment": environment(folder),
                "seconds": limit(60),
            }
            server.stdin.write(f"{json.dumps(request)}\n")  # pyright: ignore[reportOptionalMemberAccess]
            server.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            code, used = json.loads(server.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]
            printed = (folder / ".stderr").read_text(errors="replace") or (folder / ".stdout").read_text()
            return answer((code, printed.splitlines()), folder, **used)

        try:
            yield ask
        finally:
            server.stdin.close()
