"""What a tracker implements, and the thread that feeds it.

A tracker can neither slow nor end a run: its queue is bounded, its thread is a daemon, and its first error is one
warning, after which it is not used any more. It begins at the event ``restored``, which has the step at which this
process resumes.

When a run goes back to an earlier checkpoint (``recovery.divergence``), it does steps again with other batches, so with
other numbers. The tracker then ends and begins again: a file is cut at the step of the checkpoint, and a program that
cannot forget numbers gets another series.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

from halcyon.telemetry.history.background import STEP, Background, Row
from halcyon_api.counting import counted
from halcyon_api.package import install

LOOK_SECONDS = 1.0
"""Longest time from a step to its tracker."""
_END = frozenset({"done", "preempted", "error"})
_BACK = "rolledBack"
Numbers = Mapping[str, float]
"""Numbers by name, such as ``train/loss``."""


@dataclass(frozen=True)
class TrackedRun:
    """The run of a tracker's series.

    Attributes:
        identity: A word that no other run has; the same after a restart.
        name: Name of the run.
        resumed_step: Steps that were done when this process began.
        document: The run document, without values of environment variables; and ``git``, its commit, if it is in a
            repository.
        returns: How often the run has gone back to an earlier checkpoint.
    """

    identity: str
    name: str
    resumed_step: int
    document: Mapping[str, Any]
    returns: int = 0

    @property
    def series(self) -> str:
        """The identity of the series for a program that cannot forget numbers: each return begins another one."""
        return f"{self.identity}-{self.returns}" if self.returns else self.identity

    @property
    def title(self) -> str:
        """The name of this series."""
        return f"{self.name} (return {self.returns})" if self.returns else self.name


class Tracker(Protocol):
    """A series of numbers in another program.

    Its methods run in one thread; any exception ends it. After `end` it may begin again.
    """

    def begin(self, run: TrackedRun) -> None:
        """Begin the series, or continue that of an earlier process."""
        ...

    def numbers(self, step: int, time: float, values: Numbers) -> None:
        """Add the numbers of a step, such as ``train/loss``.

        Args:
            step: Steps done.
            time: Seconds since 1970.
            values: Numbers by name.
        """
        ...

    def flush(self) -> None:
        """Send what was added."""
        ...

    def end(self, cause: str, summary: Numbers) -> None:
        """End the series for this process.

        Args:
            cause: ``done``, ``preempted`` or ``error``; ``rolledBack`` before it begins again; empty if it is not
                known.
            summary: The seconds of this process by cause, and its goodput.
        """
        ...


@dataclass
class TrackerThread(Background):
    """Feeds a tracker; a `halcyon.telemetry.history.Listener`."""

    name: str
    """Name of the tracker in the run document, for warnings."""
    tracker: Tracker
    run: Callable[[int], TrackedRun]
    """Makes the run from the resumed step; called in the thread."""
    summary: Callable[[], Numbers]
    """The seconds of this process by cause; called in the thread at the end."""
    on_warning: Callable[[str], object]
    """Called in the thread with the sentence about the error that ended the tracker."""
    _tracked: TrackedRun | None = None
    _cause: str = ""

    def __post_init__(self) -> None:
        super().__init__(f"tracker-{self.name}", self._take, self._failed, interval_seconds=LOOK_SECONDS)

    def record(self, row: Row) -> None:
        """Take a row."""
        if row.event in (STEP, "evaluation", "task", "restored", _BACK) or row.event in _END:
            super().record(row)

    def hurry(self) -> None:
        """Do nothing: a tracker is no record of the run, so a save does not wait for it."""

    def _take(self, rows: list[Row], now: bool, last: bool) -> None:
        for row in rows:
            if row.event == "restored" and self._tracked is None:
                self._tracked = self.run(row.fields["step"])
                self.tracker.begin(self._tracked)
            elif row.event == _BACK and self._tracked is not None:
                self.tracker.flush()
                self.tracker.end(_BACK, self.summary())
                self._tracked = replace(
                    self._tracked, resumed_step=row.fields["to_step"], returns=self._tracked.returns + 1
                )
                self.tracker.begin(self._tracked)
            elif row.event in _END:
                self._cause = row.event
            elif self._tracked is not None and (values := numbers(row)):
                self.tracker.numbers(row.fields["step"], row.time, values)
        if self._tracked is not None and rows:
            self.tracker.flush()
        if last and self.dropped:
            self.on_warning(
                f"spec.telemetry.trackers.{self.name}: it lacks {counted(self.dropped, 'row')}: a full queue"
            )
        if self._tracked is not None and last:
            self.tracker.end(self._cause, self.summary())

    def _failed(self, error: Exception) -> None:
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        self.on_warning(f"spec.telemetry.trackers.{self.name}: the run trains on without this tracker: {text[:300]}")


def numbers(row: Row) -> dict[str, float]:
    """The numbers of a row as trackers name them.

    ``train/…`` of a step, ``evaluation/…`` of an evaluation, by source if it has one, ``task/NAME/…`` of a task.
    """
    if row.event == STEP:
        prefix = "train/"
    elif row.event == "evaluation":
        source = row.fields.get("source")
        prefix = f"evaluation/{source}/" if source else "evaluation/"
    elif row.event == "task":
        prefix = f"task/{row.fields['task']}/"
    else:
        return {}
    shown = ((name, value) for name, value in row.fields.items() if name not in ("step", "eta_seconds"))
    found = {f"{prefix}{name}": float(value) for name, value in shown if isinstance(value, int | float)}
    for k, rate in (row.fields.get("pass_at") or {}).items():
        found[f"{prefix}pass_at/{k}"] = float(rate)
    return found


def library(module: str, extra: str) -> Any:
    """A module of a tracker's library, which is optional.

    Raises:
        ModuleNotFoundError: It is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ModuleNotFoundError(f"{module} is missing; install it with {install(extra)}") from None
