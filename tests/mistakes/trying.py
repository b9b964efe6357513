"""Makes a mistake in a folder, and reads the answer that the user gets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from tests.mistakes.row import FOLDER, Mistake, document
from tests.suite.limits import limit

_SIZE = re.compile(r"(this machine has|a step takes) [\d.]+ [A-Z]B")
_PROBE = re.compile(r"/probe-[0-9a-f]+/\S+")


@dataclass(frozen=True)
class Answer:
    """What a user gets for a bad input."""

    code: int
    """The exit code; negative: the signal that ended the process."""
    lines: tuple[str, ...]
    """The output without progress reports of a training. Paths of this machine are replaced."""
    seconds: float = 0.0
    """Processor time, where it is limited."""
    memory_bytes: int = 0
    """Memory beyond that of a process that has imported the program, where it is limited."""

    @property
    def sentence(self) -> str:
        """All lines."""
        return " ".join(self.lines)

    @property
    def last(self) -> str:
        """The last line."""
        return self.lines[-1].strip() if self.lines else ""


Printed = tuple[int, list[str]]
"""Exit code and lines of a command."""


def prepare(row: Mistake, folder: Path) -> tuple[str, ...]:
    """Write the input into an empty folder. Returns the words of the command."""
    for name in ("empty", "notes"):
        (folder / name).mkdir(parents=True)
    for number in (1, 2, 3):
        _write(folder, f"notes/{number}.txt", "".join(f"{line} of {number}\n" for line in range(1000)))
    if row.make is not None:
        row.make(folder)
    if row.trained is not None:
        _write(folder, "run.yaml", yaml.safe_dump(document(row.trained)))
        code, printed = _in_process(("train", "run.yaml"), folder)
        assert code == 0, printed
    if row.trained is not None or not (folder / "run.yaml").exists():
        _write(folder, "run.yaml", row.text if row.text is not None else yaml.safe_dump(document(row.changes)))
    for name, text in row.files.items():
        _write(folder, name, text)
    return tuple(word.replace(FOLDER, str(folder)) for word in row.command)


def make_mistake(row: Mistake, folder: Path) -> Answer:
    """Make a mistake in a new folder."""
    words = prepare(row, folder)
    return answer(_in_process(words, folder) if row.slow else _here(words, folder), folder)


def answer(printed: Printed, folder: Path, **used: Any) -> Answer:
    """The answer of a command that was tried in a folder."""
    code, lines = printed
    lines = [_PROBE.sub("/PROBE", _SIZE.sub(r"\1 SIZE", line.replace(str(folder), FOLDER))) for line in lines]
    return Answer(code, tuple(line for line in lines if line.strip()), **used)


def _write(folder: Path, name: str, text: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.replace(FOLDER, str(folder)).encode())


def environment(folder: Path) -> dict[str, str]:
    """Variables of a command that is tried in a folder: nothing of this machine decides its answer."""
    return {
        "HOME": str(folder / "home"),
        "KUBECONFIG": str(folder / "kubeconfig"),
        "COLUMNS": "400",
        "TIKTOKEN_CACHE_DIR": str(folder),
    }


def _here(words: tuple[str, ...], folder: Path) -> Printed:
    """Run a command in this process."""
    from kubernetes.config import kube_config

    from halcyon_cli.main import app

    before = kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(folder / "kubeconfig")  # the client read the environment at import
    try:
        with contextlib.chdir(folder):
            ended = CliRunner().invoke(app, list(words), env=environment(folder))
    finally:
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = before
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.exit_code, (ended.stderr or ended.stdout).splitlines()


def _in_process(words: tuple[str, ...], folder: Path) -> Printed:
    """Run a command in a separate process."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("halcyon"), *words],
        cwd=folder,
        env={**os.environ, **environment(folder)},
        capture_output=True,
        text=True,
        timeout=limit(120),
        check=False,
    )
    events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    last = [event["message"] for event in events[-1:] if event["event"] == "error"]
    return ended.returncode, [*ended.stderr.splitlines(), *last]
