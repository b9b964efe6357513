"""What `make chat` prints."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from halcyon_chat.chain import Stage
from halcyon_chat.records import Record
from halcyon_chat.view import Events, View

RUN = Stage("chat-pretrain", ("train",), "key", {"spec": {"trainer": {"steps": 40, "batchSize": 2}}})
LATER = Stage("chat-finetune", ("train",), "key", {"spec": {"trainer": {"steps": 20, "batchSize": 2}}})
CHAIN = (Stage("chat-data", ("train",), "key"), RUN, LATER, Stage("report", ("report",), "key"))


def test_a_training_ends_with_its_loss_and_bits() -> None:
    events = Events(40)
    events.add({"event": "step", "step": 7, "loss": 3.5, "tokensPerSecond": 1234.5})
    assert (events.step, events.of, events.words, events.speed) == (7, 40, "loss 3.5000", "1,234 tokens/s")
    events.add({"event": "evaluation", "source": "library", "loss": 9.0, "bitsPerByte": 9.0})
    events.add({"event": "evaluation", "loss": 3.0, "bitsPerByte": 1.5})
    assert events.came == "loss 3.5000, 1.5000 bits per byte"


def test_tokens_and_batches_are_shown() -> None:
    events = Events(None)
    events.add({"event": "tokenized", "source": "library", "tokens": 1234})
    assert events.came == "library: 1,234 tokens"
    events.add({"event": "tokenized", "source": "answers", "tokens": 1000})
    events.add({"event": "tokenized", "source": "library", "tokens": 2000})
    assert events.came == "2 sources: 3,000 tokens"
    events.add({"event": "evaluating", "batch": 2, "batches": 9})
    assert (events.step, events.of) == (2, 9)


def test_without_a_terminal_a_line_is_printed_at_times() -> None:
    console, now = Console(file=io.StringIO(), width=100), [0.0]
    view = View(console, CHAIN, lambda: now[0])
    with view.stage(2, RUN) as events:
        for step in range(10, 50, 10):
            now[0] += 9.0
            events.add({"event": "step", "step": step, "loss": 2.0, "etaSeconds": 40.0 - step})
        events.add({"event": "sample", "step": 40, "prompt": "def ", "text": "main():\n    pass"})
    view.done(2, RUN, Record("key", 125.0, "loss 2.0000", events.text))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        " 2/4  chat-pretrain        begins",
        " 2/4  chat-pretrain        30/40, loss 2.0000, 10 s left, about 45 s for all stages",
        " 2/4  chat-pretrain        loss 2.0000, 2 min 5 s",
        "       | def main():",
        "       |     pass",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_line_of_a_stage_cuts_no_number(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    view = View(console, CHAIN, lambda: 7.0)
    with view.stage(2, RUN) as events:
        events.add({"event": "step", "step": 30, "loss": 2.125, "tokensPerSecond": 1234567.0, "etaSeconds": 1350.0})
    line = console.file.getvalue().replace("\r", "\n")  # type: ignore[attr-defined]
    assert "30/40" in line
    assert "loss 2.1250" in line
    assert "…" not in line
    assert "22 min 30 s left" in line
    assert ("about 67 min 45 s for all stages" in line) is (width == 200)
    assert ("1,234,567 tokens/s" in line) is (width == 200)
