"""The log for people: events as lines of text, and on a terminal a live line with steps, loss, speed and time left.

On a terminal, every event is printed above the live line, as is the output of other code to standard output or standard
error. Elsewhere, such as in a pipe, there are only the lines.
"""

from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from halcyon.host.clock import Clock
from halcyon.telemetry.events import BY_NAME, sentence
from halcyon.telemetry.stages import STAGES
from halcyon_api.local_times import local_time
from halcyon_api.status.progress import Stage

NAME_WIDTH = 20
"""Largest number of characters of a run's name in the line, so that the numbers fit into a terminal of 80 columns."""
NARROW_NAME_WIDTH = 12
_NARROW = 72
"""A terminal with fewer columns has no room for the speed."""
_SMOOTHING = 0.9
_STAGE_SHOWN_SECONDS = 1.0
"""A shorter stage between two steps does not replace the numbers."""


class ProgressLine:
    """An event log for people.

    Args:
        stream: The terminal, or a pipe or a file.
        run: Name of the run.
        steps: Steps of the whole run; None for a run without steps, whose line counts the batches of its evaluation, if
            any.
        live: Whether the stream is a terminal, which shows the live line.
        clock: Sources of time.
    """

    def __init__(self, stream: TextIO, run: str, *, steps: int | None, live: bool, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._steps, self._step, self._sum, self._weight = steps, 0, 0.0, 0.0
        self._console = Console(file=stream, force_terminal=live, highlight=False)
        self._progress: Progress | None = None
        if not live:
            return
        width = NAME_WIDTH if self._console.width >= _NARROW else NARROW_NAME_WIDTH
        name = Column(no_wrap=True, overflow="ellipsis", max_width=width)
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", table_column=name),
            _Count(table_column=Column(no_wrap=True, min_width=1)),
            BarColumn(bar_width=None, table_column=Column(min_width=4, ratio=1)),
            _Numbers(self._clock, self._console, table_column=Column(no_wrap=True)),
            console=self._console,
            refresh_per_second=5,
            expand=True,
        )
        began = self._clock.monotonic()
        self._task = self._progress.add_task(run, total=steps, numbers={}, stage="starting", began=began)
        self._progress.start()

    def stage(self, stage: Stage) -> None:
        """Show what the process does now, with the elapsed time. In a pipe, only what takes long is a line."""
        if self._progress is not None:
            self._progress.update(self._task, stage=stage, began=self._clock.monotonic())
        elif stage == "compiling":
            self._print(STAGES[stage].words or "")

    def event(self, name: str, **fields: Any) -> None:
        """Update the line, or print the event above it."""
        if not BY_NAME[name].on_screen:
            return
        if name == "step":
            self._update(completed=fields["step"], numbers=fields, stage="training")
            self._step_done(fields)
            return
        if name == "evaluating":
            self._update(completed=fields["batch"], total=fields["batches"], numbers=fields, stage="training")
            return
        if name in ("done", "preempted", "error"):
            self._update(stage="done")
        if name in ("restored", "rolledBack"):
            self._step = fields.get("to_step", fields["step"])
            if self._steps is not None:
                self._update(completed=self._step)
        self._print(sentence(name, fields))

    def close(self) -> None:
        """Stop updating the line, and show the cursor again."""
        if self._progress is not None:
            self._progress.stop()

    def _step_done(self, fields: dict[str, Any]) -> None:
        """Print the line that stays, if a multiple of `line_steps` was passed since the last one."""
        step, steps = fields["step"], self._steps or 0
        # The exponential mean of the losses, without a bias towards the first ones.
        self._sum = _SMOOTHING * self._sum + (1 - _SMOOTHING) * fields["loss"]
        self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        smoothed, every = self._sum / self._weight, line_steps(steps)
        if step // every > self._step // every or step == steps:
            width = self._console.width if self._progress is not None else None
            line = f"step {step}/{steps}  smoothed loss {smoothed:z.4f}"
            if fields.get("tokens_per_second"):
                left = f"  {duration(fields['eta_seconds'])} left"
                whole = f"{line}  {fields['tokens_per_second']:,.0f} tok/s{left}"
                line = whole if width is None or len(whole) < width else line + left  # without the speed
            self._console.print(Text(line), soft_wrap=width is None)
        self._step = step

    def _update(self, **changes: Any) -> None:
        if self._progress is not None:
            self._progress.update(self._task, **changes)

    def _print(self, text: str) -> None:
        moment = Text(local_time(self._clock.wall(), date=False), "dim")
        if self._progress is None:
            self._console.print(Text.assemble(moment, " ", text), soft_wrap=True)
            return
        line = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
        line.add_row(moment, Text(text))
        self._console.print(line)


class _Count(ProgressColumn):
    """Steps done, and all steps; empty if the number of all is unknown."""

    def render(self, task: Task) -> Text:
        """The two numbers."""
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Numbers(ProgressColumn):
    """Loss, speed and remaining time, as far as they are known; before the first step, and in a long stage after it,
    what the process does.
    """

    max_refresh = None

    def __init__(self, clock: Clock, console: Console, table_column: Column) -> None:
        super().__init__(table_column)
        self._clock, self._console = clock, console

    def render(self, task: Task) -> Text:
        """The numbers of the last step, or the stage and its duration."""
        numbers, elapsed = task.fields["numbers"], self._clock.monotonic() - task.fields["began"]
        narrow = self._console.width < _NARROW
        doing = STAGES[task.fields["stage"]].words
        if doing is not None and (not numbers or elapsed >= _STAGE_SHOWN_SECONDS):
            return Text(f"{doing.partition(' (')[0] if narrow else doing} {duration(elapsed)}", "cyan")
        parts = [f"loss {numbers['loss']:z.4f}"] if "loss" in numbers else []
        if "reward" in numbers:
            parts += [f"reward {numbers['reward']:z.4f}"]
        if numbers.get("tokens_per_second"):
            parts += [] if narrow else [f"{numbers['tokens_per_second']:,.0f} tok/s"]
            parts += [f"eta {duration(numbers['eta_seconds'])}"]
        return Text("  ".join(parts), style="cyan")


def line_steps(steps: int) -> int:
    """Steps between two lines that stay on the screen: about 20 lines in a short run, and one every 100 steps at the
    least.
    """
    return next((size for size in (1, 2, 5, 10, 20, 50) if 20 * size >= steps), 100)


def duration(seconds: float) -> str:
    """Format seconds for people: ``0:42``, ``12:05``, ``3:20:00``, ``2d 4h``."""
    whole = round(seconds)
    if whole >= 172_800:
        return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
