"""A live line on a terminal: steps, loss, tokens per second, remaining time.

Every other event is printed above it as one line of text, as is the output of other code to standard output or standard
error.
"""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from halcyon.telemetry.clock import Clock
from halcyon.telemetry.event_fields import placed_words, task_words
from halcyon_api.counting import counted

NAME_WIDTH = 20
"""Largest number of characters of a run's name in the line, so that the numbers fit into a terminal of 80 columns."""


class ProgressLine:
    """An event log for people.

    Args:
        stream: The terminal.
        run: Name of the run.
        steps: Steps of the whole run; None for a run without steps, whose line counts the batches of its evaluation, if
            any.
        clock: Sources of time.
    """

    def __init__(self, stream: TextIO, run: str, *, steps: int | None, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._steps = steps
        self._console = Console(file=stream, force_terminal=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn(
                "{task.description}",
                style="bold",
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH),
            ),
            _Count(table_column=Column(no_wrap=True, min_width=1)),
            BarColumn(bar_width=None, table_column=Column(min_width=4, ratio=1)),
            _Numbers(table_column=Column(no_wrap=True)),
            console=self._console,
            refresh_per_second=5,
            expand=True,
        )
        self._task = self._progress.add_task(run, total=steps, numbers={}, ended=False)
        self._progress.start()

    def event(self, name: str, **fields: Any) -> None:
        """Update the line, or print the event above it."""
        if name == "step":
            self._progress.update(self._task, completed=fields["step"], numbers=fields)
            return
        if name in ("watch", "placed"):
            return  # too many numbers for a terminal; for the report of a chain
        if name == "evaluating":
            self._progress.update(self._task, completed=fields["batch"], total=fields["batches"], numbers=fields)
            return
        if name in ("done", "preempted", "error"):
            self._progress.update(self._task, ended=True)
        if name == "restored" and self._steps is not None:
            self._progress.update(self._task, completed=fields["step"])
        moment = self._clock.timestamp()[11:19]
        self._console.print(Text.assemble((f"{moment} ", "dim"), sentence(name, fields)))

    def close(self) -> None:
        """Stop updating the line, and show the cursor again."""
        self._progress.stop()


class _Count(ProgressColumn):
    """Steps done, and all steps; empty if the number of all is unknown."""

    def render(self, task: Task) -> Text:
        """The two numbers."""
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Numbers(ProgressColumn):
    """Loss, speed and remaining time, as far as they are known."""

    max_refresh = None

    def render(self, task: Task) -> Text:
        """The numbers of the last step."""
        numbers = task.fields["numbers"]
        waits = not numbers and not task.fields["ended"] and task.total is not None and task.completed < task.total
        parts = (
            [f"loss {numbers['loss']:z.4f}"] if "loss" in numbers else ["waiting for the first step"] if waits else []
        )
        if "reward" in numbers:
            parts += [f"reward {numbers['reward']:z.4f}"]
        if numbers.get("tokens_per_second"):
            parts += [f"{numbers['tokens_per_second']:,.0f} tok/s", f"eta {duration(numbers['eta_seconds'])}"]
        return Text("  ".join(parts), style="cyan")


def duration(seconds: float) -> str:
    """Format seconds for people: ``0:42``, ``12:05``, ``3:20:00``, ``2d 4h``."""
    whole = round(seconds)
    if whole >= 172_800:
        return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_SENTENCES = {
    "attention": "attention: {implementation}, because {reason}",
    "determinism": "repeated steps: {determinism}; {meaning}",
    "plan": "plan: {plan}",
    "skipped": "step {step}: the update was dropped: {reason}",
    "checkpointVerified": "step {step}: the checkpoint was read back, and every byte is intact",
    "hung": "no step or stage has ended for {seconds:.0f} s, and the limit is {limit_seconds:.0f} s",
    "checkpointFailed": "step {step}: checkpoint failed: {reason}",
    "exported": "step {step}: exported to {path}",
    "exportFailed": "step {step}: export failed: {reason}",
    "headRebuilt": "HEAD was rebuilt from the checkpoints: {reason}",
    "sample": "step {step}, the model writes: {prompt}{text}",
    "fallback": "fell back to step {step}: {reason}",
}
"""Events as sentences, where nothing but their fields is needed."""


def sentence(name: str, fields: dict[str, Any]) -> str:
    """One event as a sentence."""
    step = fields.get("step", 0)
    if name == "evaluation":
        bits = fields.get("bits_per_byte")
        part = fields.get("source") or fields.get("tag")
        where = f"step {step}, {part}" if part else f"step {step}"
        if "pass_at" in fields:
            passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
            prompts = counted(fields["sequences"], "prompt")
            return f"{where}: held-out reward {fields['reward']:z.4f} of {prompts}, {passes}"
        of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
        return (
            f"{where}: held-out loss {fields['loss']:z.4f}{of}"
            + (f", {bits:z.4f} bits per byte" if bits is not None else "")
            + (f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else "")
        )
    if name == "task":
        return f"step {step}: {task_words(fields)}"
    if name == "placed":
        return placed_words(fields)
    if name == "watch":
        return (
            f"step {step}: {fields['statistic']} of the {fields['of']} of {counted(len(fields['parameters']), 'array')}"
        )
    if name == "profiled":
        return f"step {step}: profile of {counted(fields['steps'], 'step')} in {fields['path']}"
    if name == "macroEvaluation":
        bits = f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""
        return f"step {step}: mean held-out loss of the sources {fields['loss']:z.4f}{bits}"
    if name == "checkpoint":
        return f"step {step}: checkpoint committed, {fields['size_bytes'] / 1e6:.1f} MB"
    if name == "rolledBack":
        left_out = counted(fields["batches"], "batch", "batches")
        return f"step {step}: went back to step {fields['to_step']} and left out {left_out}: {fields['reason']}"
    if name in _SENTENCES:
        return _SENTENCES[name].format_map({"step": step, **fields})
    if name == "restored":
        return (
            f"resumed at step {step} from {fields['path']}"
            if fields.get("path")
            else f"new state in {fields['seconds']:.1f} s"
        )
    if name == "joined":
        processes = f"{counted(fields['processes'], 'process', 'processes')}, {counted(fields['devices'], 'device')}"
        return f"{processes} in {fields['seconds']:.1f} s"
    if name == "compiled":
        return f"first step after {sum(value for key, value in fields.items() if key.endswith('_seconds')):.1f} s"
    if "message" in fields:
        return str(fields["message"])
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items() if value is not None)
    return f"{name}: {details}" if details else name
