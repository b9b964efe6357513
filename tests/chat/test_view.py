"""What `make chat` prints."""

from __future__ import annotations

import io

from rich.console import Console

from halcyon_chat.chain import Stage
from halcyon_chat.records import Record
from halcyon_chat.view import Events, View, duration

RUN = Stage("chat-pretrain", ("train",), "key", {"spec": {"trainer": {"steps": 40}}})


def test_a_training_ends_with_its_loss_and_bits() -> None:
    events = Events(40)
    events.add({"event": "step", "step": 7, "loss": 3.5, "tokensPerSecond": 1234.5})
    assert (events.step, events.of, events.words) == (7, 40, "loss 3.5000, 1,234 tokens/s")
    events.add({"event": "evaluation", "source": "library", "loss": 9.0, "bitsPerByte": 9.0})
    events.add({"event": "evaluation", "loss": 3.0, "bitsPerByte": 1.5})
    assert events.came == "loss 3.5000, 1.5000 bits per byte"


def test_numbers_that_are_none_are_shown() -> None:
    events = Events(40)
    events.add({"event": "step", "step": 7, "loss": "NaN", "tokensPerSecond": 1234.5})
    events.add({"event": "evaluation", "loss": "Infinity", "bitsPerByte": "Infinity"})
    assert events.came == "loss nan, inf bits per byte"


def test_a_reward_is_shown() -> None:
    events = Events(40)
    events.add({"event": "step", "step": 1, "loss": 0.0, "reward": 0.25})
    assert events.words == "reward 0.250"
    events.add({"event": "evaluation", "loss": -0.5, "reward": 0.5})
    assert events.came == "reward 0.250, held-out reward 0.500"


def test_tokens_and_batches_are_shown() -> None:
    events = Events(None)
    events.add({"event": "tokenized", "source": "library", "tokens": 1234})
    assert events.came == "library: 1,234 tokens"
    events.add({"event": "evaluating", "batch": 2, "batches": 9})
    assert (events.step, events.of) == (2, 9)


def test_without_a_terminal_a_line_is_printed_at_times() -> None:
    console, now = Console(file=io.StringIO(), width=100), [0.0]
    view = View(console, 8, lambda: now[0])
    with view.stage(3, RUN) as events:
        for step in range(1, 5):
            now[0] += 9.0
            events.add({"event": "step", "step": step, "loss": 2.0})
    view.done(3, RUN, Record("key", 125.0, "loss 2.0000"))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        " 3/8  chat-pretrain        begins",
        " 3/8  chat-pretrain        3/40, loss 2.0000",
        " 3/8  chat-pretrain        loss 2.0000, 2 min 5 s",
    ]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3600)] == ["0 s", "1 min 0 s", "60 min 0 s"]
