"""The progress of a sweep: one line for each member that trains on a terminal, and a line for each start and end."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from halcyon_cli.sweep_members import Member
from halcyon_cli.sweep_running import End


class SweepProgress:
    """Shows the progress of the members (`halcyon_cli.sweep_running.Shows`). A context manager.

    Args:
        console: Where it is shown.
        members: Number of members that are trained.
    """

    def __init__(self, console: Console, members: int) -> None:
        self._console, self._members, self._begun = console, members, 0
        self._progress = Progress(
            TextColumn("{task.description}", style="bold"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[loss]}", style="cyan"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> SweepProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def began(self, member: Member) -> None:
        """See `Shows`."""
        self._begun += 1
        self._say(f"{member.name}: {self._begun} of {self._members} members trains")
        self._tasks[member.name] = self._progress.add_task(
            member.name, total=member.run.spec.trainer.steps, loss="starts"
        )

    def step(self, member: Member, step: int, loss: float | None) -> None:
        """See `Shows`."""
        shown = "" if loss is None else f"loss {loss:.4f}"
        self._progress.update(self._tasks[member.name], completed=step, loss=shown)

    def ended(self, member: Member, end: End) -> None:
        """See `Shows`."""
        self._progress.remove_task(self._tasks.pop(member.name))
        self._say(f"{member.name}: {end.state}" + (f": {end.message}" if end.message else ""))

    def _say(self, sentence: str) -> None:
        self._console.print(Text(sentence), soft_wrap=True)
