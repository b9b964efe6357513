"""The live view of a run: one updated line on a terminal; elsewhere a plain line per phase and every 15 seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from halcyon_demo.observations import Observations

_PLAIN_SECONDS = 15.0


class View:
    """Shows a run while another function waits for it.

    Args:
        console: The output.
        observations: The state of the run.
        clock: Returns seconds; decides when a plain line is due.
    """

    def __init__(
        self, console: Console, observations: Observations, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._observations = observations
        self._clock = clock
        self._live: Live | None = None
        self._run = ""
        self._steps = 0
        self._shown = ("", 0.0)

    @contextmanager
    def of(self, run: str, steps: int) -> Iterator[None]:
        """Show one run inside the block."""
        self._run, self._steps, self._shown = run, steps, ("", self._clock())
        try:
            if self._console.is_terminal:
                with Live(self._row(), console=self._console, auto_refresh=False, transient=True) as self._live:
                    yield
            else:
                yield
        finally:
            self._live, self._run = None, ""

    def say(self, text: str, style: str = "") -> None:
        """Print a permanent line above the live one."""
        self._console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    def draw(self) -> None:
        """Show the current state of the run."""
        if self._live is not None:
            self._live.update(self._row(), refresh=True)
            return
        if not self._run:
            return
        phase, since = self._shown
        seen = self._seen()
        if seen["phase"] != phase or self._clock() - since >= _PLAIN_SECONDS:
            self._shown = (seen["phase"], self._clock())
            self.say(
                f"  {self._run}  {seen['phase']}  step {seen['step']}/{self._steps}  loss {seen['loss']}  tokens/s "
                f"{seen['speed']}  restarts {seen['restarts']}"
            )

    def _seen(self) -> dict[str, Any]:
        run = self._observations.run(self._run)
        last = next((line for line in reversed(self._observations.lines(self._run)) if line.event == "step"), None)
        speed = last.fields.get("tokensPerSecond") if last else None
        return {
            "phase": run.status.phase if run else "-",
            "restarts": run.status.restarts.total if run else 0,
            "step": last.step if last else 0,
            "loss": f"{last.fields['loss']:.4f}" if last else "-",
            "speed": f"{speed:,.0f}" if speed else "-",
        }

    def _row(self) -> Table:
        seen = self._seen()
        row = Table.grid(padding=(0, 2))
        row.add_row(
            f"[bold]{escape(self._run)}[/bold]",
            f"[cyan]{seen['phase']}[/cyan]",
            ProgressBar(total=self._steps or 1, completed=seen["step"], width=30),
            f"step {seen['step']}/{self._steps}",
            f"loss {seen['loss']}",
            f"{seen['speed']} tokens/s",
            f"restarts {seen['restarts']}",
        )
        return row
