"""Shows the stages: one updated line on a terminal; elsewhere a plain line at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from halcyon_chat.chain import Stage
from halcyon_chat.records import Record

_PLAIN_SECONDS = 20.0


class Events:
    """What a process has reported. Pure.

    Attributes:
        step: Steps or batches done.
        of: Steps or batches of the stage; None: not known.
        words: The newest numbers in a few words.
        came: The result of the stage so far.
        on_change: Called after each event.
    """

    def __init__(self, steps: int | None) -> None:
        self.step, self.of, self.words, self.came = 0, steps, "", ""
        self.on_change: Callable[[], object] = lambda: None
        self._last, self._held_out = "", ""

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event of the log (docs/reference/metrics.md).

        A number that JSON cannot express is a text there, such as ``NaN``.
        """
        match event.get("event"):
            case "step":
                self.step = event["step"]
                self._last = (
                    f"reward {event['reward']:.3f}" if "reward" in event else f"loss {float(event['loss']):.4f}"
                )
                speed = event.get("tokensPerSecond")
                self.words = self._last + (f", {speed:,.0f} tokens/s" if speed else "")
            case "tokenized":
                self.words = f"{event['source']}: {event['tokens']:,} tokens"
            case "evaluating":
                self.step, self.of = event["batch"], event["batches"]
            case "evaluation" if "source" not in event and "tag" not in event:
                self._last = self._last or f"loss {float(event['loss']):.4f}"
                self._held_out = ""
                if "reward" in event:
                    self._held_out = f"held-out reward {event['reward']:.3f}"
                elif event.get("bitsPerByte") is not None:
                    self._held_out = f"{float(event['bitsPerByte']):.4f} bits per byte"
            case _:
                return
        self.came = ", ".join(part for part in (self._last, self._held_out) if part) or self.words
        self.on_change()


class View:
    """Shows a chain on a console.

    Args:
        console: The output.
        total: Number of stages.
        clock: Returns seconds.
    """

    def __init__(self, console: Console, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._total, self._clock = console, total, clock

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self._console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def done_before(self, number: int, stage: Stage, record: Record) -> None:
        """Print the line of a stage that was done before."""
        self.say(self._line(number, stage.name, record.came, f"done before, in {duration(record.seconds)}"), "dim")

    def done(self, number: int, stage: Stage, record: Record) -> None:
        """Print the line of a stage that has succeeded."""
        self.say(self._line(number, stage.name, record.came, duration(record.seconds)))

    @contextmanager
    def stage(self, number: int, stage: Stage) -> Iterator[Events]:
        """Show a stage while the block runs. The block adds the events of the stage to the object that it gets."""
        events = Events(stage.steps)
        began = self._clock()
        if self._console.is_terminal:
            row = _Row(self._line(number, stage.name).rstrip(), events, lambda: self._clock() - began)
            with Live(row, console=self._console, refresh_per_second=4, transient=True):
                yield events
            return
        self.say(self._line(number, stage.name, "begins"))
        shown = began

        def show() -> None:
            nonlocal shown
            if self._clock() - shown >= _PLAIN_SECONDS:
                shown = self._clock()
                progress = f"{events.step}/{events.of}" if events.of else ""
                self.say(self._line(number, stage.name, progress, events.words))

        events.on_change = show
        yield events

    def _line(self, number: int, name: str, *words: str) -> str:
        return f"{number:>2}/{self._total}  {name:<20} {', '.join(filter(None, words))}"


class _Row:
    """The updated line of a stage."""

    def __init__(self, title: str, events: Events, seconds: Callable[[], float]) -> None:
        self._title, self._events, self._seconds = title, events, seconds

    def __rich__(self) -> Table:
        events, row = self._events, Table.grid(padding=(0, 2))
        bar = ProgressBar(total=events.of, completed=events.step, width=30, pulse=events.of is None)
        steps = f"{events.step}/{events.of}" if events.of else ""
        row.add_row(escape(self._title), bar, steps, escape(events.words), duration(self._seconds()))
        return row


def duration(seconds: float) -> str:
    """A duration in words, such as ``2 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
