"""Gives hostile inputs to the program, and reads its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.hostile.row import Hostile
from tests.mistakes.row import FOLDER, document
from tests.mistakes.trying import environment
from tests.suite.limits import limit


@dataclass(frozen=True)
class Tried:
    """What became of an input.

    Attributes:
        code: The exit code; negative: the signal that ended the process.
        sentence: The last line of its errors; without errors, that of its output.
        errors: All its errors.
        seconds: Processor time.
        memory_bytes: Memory beyond that of a process that has imported the program.
    """

    code: int
    sentence: str
    errors: str
    seconds: float
    memory_bytes: int


Try = Callable[[Hostile, Path], Tried]


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

        def ask(row: Hostile, folder: Path) -> Tried:
            folder.mkdir(parents=True)
            row.make(folder)
            (folder / "notes").mkdir(exist_ok=True)
            (folder / "notes" / "1.txt").write_text("some notes about a lighthouse\n" * 200)
            if not (folder / "run.yaml").exists():
                (folder / "run.yaml").write_text(yaml.safe_dump(document(row.changes)).replace(FOLDER, str(folder)))
            words = [word.replace(FOLDER, str(folder)) for word in row.command]
            request = {
                "folder": str(folder),
                "command": words,
                "environment": environment(folder),
                "seconds": limit(60),
            }
            server.stdin.write(f"{json.dumps(request)}\n")  # pyright: ignore[reportOptionalMemberAccess]
            server.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            answer = json.loads(server.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]
            errors = (folder / ".stderr").read_text(errors="replace")
            lines = [
                line.replace(str(folder), FOLDER)
                for line in (errors or (folder / ".stdout").read_text()).splitlines()
                if line.strip()
            ]
            return Tried(
                answer["code"],
                lines[-1].strip() if lines else "",
                errors,
                answer["seconds"],
                answer["bytes"],
            )

        try:
            yield ask
        finally:
            server.stdin.close()
