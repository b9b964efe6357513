"""Telling the person what happens: a spinner on a terminal, one plain line for each step elsewhere.

Functions of this package take a `Progress` and never print by themselves, so that tests and the demo decide what is shown.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape

_PLAIN_UPDATE_SECONDS = 20.0


class Step(Protocol):
    """A step under way."""

    def update(self, detail: str) -> None:
        """Show how far the step is, in a few words."""
        ...


class Progress(Protocol):
    """What the package needs to report on its work."""

    def say(self, text: str) -> None:
        """Show one line."""
        ...

    def step(self, title: str) -> "StepContext":
        """Open a step; its end shows the seconds it took."""
        ...


class StepContext(Protocol):
    """The context manager that `Progress.step` returns."""

    def __enter__(self) -> Step: ...
    def __exit__(self, *exc: object) -> bool | None: ...


class _Quiet:
    def say(self, text: str) -> None:
        pass

    def update(self, detail: str) -> None:
        pass

    @contextmanager
    def step(self, title: str) -> Iterator["_Quiet"]:
        yield self


QUIET: Progress = _Quiet()
"""Shows nothing."""


class _SpinnerStep:
    def __init__(self, show: "_Updater") -> None:
        self._show = show

    def update(self, detail: str) -> None:
        self._show(detail)


class _Updater(Protocol):
    def __call__(self, detail: str) -> None: ...


class ConsoleProgress:
    """Progress on a rich console, live where it is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Show one line."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Open a step; its end shows the seconds it took."""
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(escape(title)) as status:
                yield _SpinnerStep(lambda detail: status.update(f"{escape(title)} [dim]{escape(detail)}[/dim]"))
        else:
            last = began

            def plain(detail: str) -> None:
                nonlocal last
                if time.monotonic() - last >= _PLAIN_UPDATE_SECONDS:
                    last = time.monotonic()
                    self.say(f"  {title}: {detail}")

            yield _SpinnerStep(plain)
        self.console.print(f"[green]✓[/green] {escape(title)} [dim]{time.monotonic() - began:.1f} s[/dim]", highlight=False, soft_wrap=True)
