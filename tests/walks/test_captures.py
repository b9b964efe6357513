"""Narrow and wide terminals: a training that is interrupted and goes on, a conversation, and `make chat`. Nothing is cut
off, and `make pictures` keeps what they show.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.text import Text

from tests import pictures
from tests.chat.toy import write_toy_chain
from tests.document_changes import changed
from tests.walks.page import Walk
from tests.walks.terminal import Terminal
from tests.walks.test_walks import laptop

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("captures")]

COLUMNS = (60, 100)
HALCYON = (sys.executable, "-m", "halcyon_cli.main")
SMALL = {
    "spec.data.sources": [{"name": "python", "stdlib": {"include": ["documentation"]}}],
    "spec.data.cache": {"workers": 1},
    "spec.trainer.steps": 80,
    "spec.trainer.sequenceLength": 64,
    "spec.trainer.evaluation": {"everySteps": 40, "batches": 2},
    "spec.checkpoint.save.everySteps": 40,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, which the terminal shows."""
    with tempfile.TemporaryDirectory(prefix="ada-") as name:
        yield Path(name)


def kept(name: str, title: str, terminal: Terminal) -> None:
    """Check that no line is cut off, and keep the picture."""
    cut = [line.plain for line in terminal.lines if "…" in line.plain]
    assert not cut, cut
    assert len(terminal.lines) < 100, "a live line is longer than the terminal, so each refresh leaves one"
    shown = Text("\n").join(terminal.lines)
    pictures.keep(f"terminal-{name}-{terminal.columns}", pictures.as_svg(shown, title, terminal.columns))


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_training_is_interrupted_and_goes_on(columns: int, folder: Path) -> None:
    walk = laptop(folder, {})
    path = folder / "examples/local-llama.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), SMALL)))
    terminal = Terminal(columns, folder, walk.environment())
    command = "halcyon train examples/local-llama.yaml"
    words = (*HALCYON, "train", "examples/local-llama.yaml")
    with terminal.running(command, words) as training:
        training.wait("step 20/80")
        training.interrupt()
    assert "stopped by you" in terminal.text
    assert f"next    {command}" in terminal.text, "the command as it was typed"
    with terminal.running(command, words):
        pass
    assert walk.step("local-llama") == 80
    assert "all 80 steps are done" in terminal.text
    kept("train", command, terminal)


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_chain_and_a_conversation(columns: int, folder: Path) -> None:
    documents = write_toy_chain(folder / "documents")
    terminal = Terminal(columns, folder, Walk(folder, {}).environment())
    chain = (sys.executable, "-m", "halcyon_chat", "--folder", "chat", "--documents", documents, "--no-serve")
    with terminal.running("make chat", chain):
        pass
    assert (folder / "chat" / "report.html").exists()
    kept("make-chat", "make chat", terminal)
    terminal = Terminal(columns, folder, terminal.environment)
    with terminal.running(
        "halcyon chat chat/chat-policy", (*HALCYON, "chat", "chat/chat-policy", "--max-tokens", "24")
    ) as chat:
        chat.wait("\n>")
        chat.type("Who are you?")
        chat.wait("\n>", times=2)
        chat.end_input()
    kept("chat", "halcyon chat", terminal)
