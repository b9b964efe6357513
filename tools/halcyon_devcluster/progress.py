"""Shows progress to the user: a spinner on a terminal, otherwise plain lines at the start and the end of each step.

Functions of this package take a `Progress` and never print themselves, so that tests and the demo decide what is shown.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.status import Status

_PLAIN_UPDATE_SECONDS = 20.0


class Step(Protocol):
    """A running step."""

    def update(self, detail: str) -> None:
        """Show the progress of the step, in a few words."""
        ...


class ProgressView(Protocol):
    """The output for progress."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Start a step; its end shows its duration in seconds. Steps may be nested."""
        ...


class _Quiet:
    def say(self, text: str) -> None:
        pass

    def update(self, detail: str) -> None:
        pass

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        yield self


QUIET: ProgressView = _Quiet()
"""Shows nothing."""


class ConsoleProgress:
    """Progress on a rich console; live if it is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner: Status | None = None

    def say(self, text: str) -> None:
        """Show one line."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Start a step; its end shows its duration in seconds."""
        began = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"  {title} ...")
            yield _PlainStep(self, title)
        elif self._spinner is not None:
            outer = self._spinner.status
            yield _SpinnerStep(self._spinner, title)
            self._spinner.update(outer)
        else:
            with self._console.status("") as self._spinner:
                try:
                    yield _SpinnerStep(self._spinner, title)
                finally:
                    self._spinner = None
        seconds = f"[dim]{time.monotonic() - began:.1f} s[/dim]"
        self._console.print(f"[green]✓[/green] {escape(title)} {seconds}", highlight=False, soft_wrap=True)


class _SpinnerStep:
    """One spinner shows the innermost step."""

    def __init__(self, spinner: Status, title: str) -> None:
        self._spinner, self._title = spinner, title
        self.update("")

    def update(self, detail: str) -> None:
        self._spinner.update(f"{escape(self._title)} [dim]{escape(detail)}[/dim]")


class _PlainStep:
    """Without a terminal, a line at most every 20 seconds shows the detail."""

    def __init__(self, progress: ConsoleProgress, title: str) -> None:
        self._progress, self._title, self._last = progress, title, time.monotonic()

    def update(self, detail: str) -> None:
        if time.monotonic() - self._last >= _PLAIN_UPDATE_SECONDS:
            self._last = time.monotonic()
            self._progress.say(f"  {self._title}: {detail}")
