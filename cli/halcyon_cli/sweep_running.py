"""``halcyon sweep``: trains the members of a sweep on this machine, each in a process of its own.

What a member has done is in its checkpoint root alone. So a second call trains only the members that have not
completed, each from its newest checkpoint.

The processes are in sessions of their own, so Ctrl-C reaches only this process, which passes it on: after the first one
the members save and end, after the second one they end at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from halcyon_api.ends import ExitCode
from halcyon_api.yaml_text import dump_all
from halcyon_cli.sweep_members import Member

State = Literal["complete", "failed", "stopped", "not begun"]
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True)
class End:
    """How a member ended in this call."""

    state: State
    message: str = ""


class SweepProgress:
    """Shows the progress of the members: a line for each start and end, and on a terminal one for each that trains. A
    context manager.

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
        """A member's process was started."""
        self._begun += 1
        self._say(f"{member.name}: {self._begun} of {self._members} members trains")
        self._tasks[member.name] = self._progress.add_task(
            member.name, total=member.run.spec.trainer.steps, loss="starts"
        )

    def step(self, member: Member, step: int, loss: float | None) -> None:
        """A member has done a step."""
        shown = "" if loss is None else f"loss {loss:.4f}"
        self._progress.update(self._tasks[member.name], completed=step, loss=shown)

    def ended(self, member: Member, end: End) -> None:
        """A member's process has ended."""
        self._progress.remove_task(self._tasks.pop(member.name))
        self._say(f"{member.name}: {end.state}" + (f": {end.message}" if end.message else ""))

    def _say(self, sentence: str) -> None:
        self._console.print(Text(sentence), soft_wrap=True)


@dataclass
class SweepRunner:
    """Trains members.

    Attributes:
        folder: Receives the document and the log of each member.
        at_once: Largest number of members that train at the same time.
        stop_on_failure: Whether a failed member stops the others.
        words: Further arguments of ``halcyon train``.
        shows: Receives the progress.
    """

    folder: Path
    at_once: int
    stop_on_failure: bool
    words: Sequence[str]
    shows: SweepProgress
    _processes: dict[str, Process] = field(default_factory=dict[str, Process])
    _interrupts: int = 0
    _stopping: bool = False

    def run(self, members: Sequence[Member]) -> dict[str, End]:
        """Train the members; returns how each one ended, by name. For the main thread."""
        return asyncio.run(self._run(members))

    async def _run(self, members: Sequence[Member]) -> dict[str, End]:
        loop, free = asyncio.get_running_loop(), asyncio.Semaphore(self.at_once)
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, self._interrupt)

        async def one(member: Member) -> End:
            async with free:
                return End("not begun") if self._stopping else await self._train(member)

        ends = await asyncio.gather(*map(one, members))
        return {member.name: end for member, end in zip(members, ends, strict=True)}

    def _interrupt(self) -> None:
        """Let all members save and end; at the second time, end at once."""
        self._stopping = True
        self._interrupts += 1
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                process.send_signal(signal.SIGINT)

    async def _train(self, member: Member) -> End:
        document, log = self.folder / f"{member.name}.yaml", self.folder / f"{member.name}.log"
        document.write_text(dump_all([member.run.document()]), encoding="utf-8")
        self.shows.began(member)
        with log.open("w", encoding="utf-8") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "halcyon.commands.child", str(os.getpid()),
                "train", str(document), "--json", *self.words,
                stdin=DEVNULL, stdout=PIPE, stderr=stream, start_new_session=True, limit=_LONGEST_LINE,
            )  # fmt: skip
            self._processes[member.name] = process
            if self._stopping:  # an interrupt came while the process was made
                process.send_signal(signal.SIGINT)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            message = ""
            async for line in process.stdout:
                with contextlib.suppress(OSError):  # a full disk under the logs ends no training
                    stream.write(line.decode(errors="replace"))
                message = self._heard(member, line) or message
            code = await process.wait()
            del self._processes[member.name]
        end = _end(code, message or _last_line(log), interrupted=self._stopping)
        if end.state == "failed" and self.stop_on_failure and not self._stopping:
            self._interrupt()
        self.shows.ended(member, end)
        return end

    def _heard(self, member: Member, line: bytes) -> str:
        """Show an event; returns the message of the last one."""
        try:
            event: Any = json.loads(line)
            name = event["event"]
        except (ValueError, KeyError, TypeError):
            return ""
        if name == "step":
            loss = event.get("loss")
            self.shows.step(member, event["step"], loss if isinstance(loss, float) else None)
        return str(event.get("message", "")) if name in ("done", "error", "preempted") else ""


def _end(code: int, message: str, *, interrupted: bool) -> End:
    if code == ExitCode.DONE:
        return End("complete", message)
    if code == ExitCode.PREEMPTED or interrupted:
        return End("stopped", message)
    if code < 0:
        return End("failed", f"killed by {signal.Signals(-code).name}")
    return End("failed", message or f"exit code {code}")


def _last_line(log: Path) -> str:
    """The last line of a process that has written no event about its end."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
