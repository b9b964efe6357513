"""Shows the stages: one updated line on a terminal; elsewhere a plain line at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from halcyon_chat.chain import Stage
from halcyon_chat.records import Record

_PLAIN_SECONDS = 20.0
_OTHER_SECONDS = 15.0
"""Assumed duration of a stage that does not train."""
_MOST_LINES, _MOST_CHARACTERS = 4, 300
"""Lines and characters of a text of the model that are shown after a stage."""
_LEAST_BAR = 8


class Events:
    """What a process has reported. Pure.

    Attributes:
        step: Steps or batches done.
        of: Steps or batches of the stage; None: not known.
        words: The newest numbers in a few words.
        came: The result of the stage so far.
        left_seconds: Seconds until the end of the stage; None: not known.
        text: What the model writes, with the prompt.
        on_change: Called after each event.
    """

    def __init__(self, steps: int | None) -> None:
        self.step, self.of, self.words, self.came = 0, steps, "", ""
        self.on_change: Callable[[], object] = lambda: None
        self.left_seconds: float | None = None
        self.speed = self.text = ""
        self._last, self._validation = "", ""
        self._tokens: dict[str, int] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event of the log (docs/reference/metrics.md).

        A number that JSON cannot express is a text there, such as ``NaN``.
        """
        match event.get("event"):
            case "step":
                self.step = event["step"]
                self._last = (
                    f"reward {event['reward']:z.3f}" if "reward" in event else f"loss {float(event['loss']):z.4f}"
                )
                speed = _number(event.get("tokensPerSecond"))
                self.left_seconds = _number(event.get("etaSeconds"))
                self.speed = f"{speed:,.0f} tokens/s" if speed else ""
                self.words = self._last
            case "tokenized":
                self._tokens[event["source"]] = event["tokens"]
                names = next(iter(self._tokens)) if len(self._tokens) == 1 else f"{len(self._tokens)} sources"
                self.words = f"{names}: {sum(self._tokens.values()):,} tokens"
            case "evaluating":
                self.step, self.of = event["batch"], event["batches"]
                self.left_seconds = _number(event.get("etaSeconds"))
            case "sample":
                self.text = f"{event['prompt']}{event['text']}"
                return
            case "evaluation" if "source" not in event and "tag" not in event:
                self._last = self._last or f"loss {float(event['loss']):z.4f}"
                self._validation = ""
                if "reward" in event:
                    self._validation = f"held-out reward {event['reward']:z.3f}"
                elif event.get("bitsPerByte") is not None:
                    self._validation = f"{float(event['bitsPerByte']):z.4f} bits per byte"
            case _:
                return
        self.came = ", ".join(part for part in (self._last, self._validation) if part) or self.words
        self.on_change()


class View:
    """Shows a chain on a console.

    Args:
        console: The output.
        stages: The stages of the chain.
        clock: Returns seconds.
    """

    def __init__(self, console: Console, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._stages, self._clock = console, stages, clock
        self._tokens_per_second: float | None = None
        """Work per second of the newest training of the chain."""

    def say(self, text: str, style: str = "") -> None:
        """Print a line, where the console takes only ASCII with a question mark for each other character."""
        self._console.print(escape(self._plain(text)), style=style, highlight=False, soft_wrap=True)

    def _beside(self, head: str, text: str, style: str = "") -> None:
        """Print a text behind its head. On a terminal its further lines stay behind it too."""
        if not self._console.is_terminal:
            self.say(f"{head}{text}", style)
            return
        row = Table.grid()
        row.add_column(no_wrap=True)
        row.add_row(escape(head), escape(self._plain(text)))
        self._console.print(row, style=style, highlight=False)

    def _plain(self, text: str) -> str:
        if self._console.encoding.startswith("utf"):
            return text
        return text.replace("±", "+/-").encode("ascii", "replace").decode()

    def done_before(self, number: int, stage: Stage, record: Record) -> None:
        """Print the line of a stage that was done before."""
        self._learn(stage, record.seconds)
        words = [record.came, f"done before, in {duration(record.seconds)}"]
        self._beside(self._line(number, stage.name), ", ".join(filter(None, words)), "dim")

    def done(self, number: int, stage: Stage, record: Record) -> None:
        """Print the line of a stage that has succeeded, and what its model writes."""
        self._learn(stage, record.seconds)
        self._beside(self._line(number, stage.name), ", ".join(filter(None, [record.came, duration(record.seconds)])))
        for line in record.text[:_MOST_CHARACTERS].splitlines()[:_MOST_LINES]:
            self._beside("       | ", line, "cyan")

    @contextmanager
    def stage(self, number: int, stage: Stage) -> Iterator[Events]:
        """Show a stage while the block runs. The block adds the events of the stage to the object that it gets."""
        events = Events(stage.steps)
        began = self._clock()
        if self._console.is_terminal:
            title = self._line(number, stage.name).rstrip()
            row = _Row(title, events, lambda: self._clock() - began, lambda: self._left(number, stage, events))
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
                left = self._left(number, stage, events)
                self.say(self._line(number, stage.name, progress, events.words, events.speed, *left))

        events.on_change = show
        yield events

    def _left(self, number: int, stage: Stage, events: Events) -> list[str]:
        """The time left of a stage and of the chain, in a few words each, as far as they are known."""
        seconds = events.left_seconds
        if seconds is None or not events.of:
            return []
        if stage.tokens and seconds > 0:
            self._tokens_per_second = stage.tokens * (1 - events.step / events.of) / seconds or self._tokens_per_second
        words = [f"{duration(seconds)} left"]
        later, speed = self._stages[number:], self._tokens_per_second
        if later and (speed or not any(one.tokens for one in later)):
            rest = sum(one.tokens / speed if one.tokens and speed else _OTHER_SECONDS for one in later)
            words.append(f"about {duration(seconds + rest)} for all stages")
        return words

    def _learn(self, stage: Stage, seconds: float) -> None:
        if stage.tokens and seconds > 0:
            self._tokens_per_second = stage.tokens / seconds

    def _line(self, number: int, name: str, *words: str) -> str:
        return f"{number:>2}/{len(self._stages)}  {name:<20} {', '.join(filter(None, words))}"


class _Row:
    """The updated line of a stage. Where it is narrow, it leaves out what is worth least; it cuts no number."""

    def __init__(self, title: str, events: Events, seconds: Callable[[], float], left: Callable[[], list[str]]) -> None:
        self._title, self._events, self._seconds, self._left = title, events, seconds, left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        events = self._events
        steps = f"{events.step}/{events.of}" if events.of else ""
        left, whole = (*self._left(), "", "")[:2]
        by_worth = [self._title, steps, events.words, left, whole, duration(self._seconds()), events.speed]
        shown: list[str] = []
        for part in filter(None, by_worth):
            if sum(len(one) + 2 for one in (*shown, part)) <= options.max_width:
                shown.append(part)
        room = options.max_width - sum(len(one) + 2 for one in shown)
        row = Table.grid(padding=(0, 2, 0, 0))
        cells: list[Any] = [escape(part) for part in shown]
        if room >= _LEAST_BAR:
            width = min(30, room - 2)
            cells.insert(1, ProgressBar(total=events.of, completed=events.step, width=width, pulse=events.of is None))
        row.add_row(*cells)
        yield row


def _number(value: object) -> float | None:
    """A number of an event; None: it is absent, or one that JSON cannot express."""
    return value if isinstance(value, int | float) else None


def duration(seconds: float) -> str:
    """A duration in words, such as ``2 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
