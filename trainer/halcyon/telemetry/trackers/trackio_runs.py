"""Trackio: a local database, or a Space of Hugging Face by its own variable ``TRACKIO_SPACE_ID``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.trackers.tracker import TrackedRun, library


class TrackioRuns:
    """A run of Trackio, under the same name after each restart.

    Args:
        project: The project.
    """

    def __init__(self, project: str) -> None:
        self._project = project
        self._run: Any = None
        self._first = 0

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: trackio is not installed.
            Exception: The library raised it.
        """
        trackio = library("trackio", "trackio")
        self._run = trackio.init(
            project=self._project,
            name=f"{run.name}-{run.identity[:6]}{run.series.removeprefix(run.identity)}",
            config=dict(run.document),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # The library has no public name for the step after the last one that it holds.
        self._first = int(getattr(self._run, "_next_step", 0))

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add numbers. Those of steps that the run has already are bitwise the same, and are left out."""
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Do nothing: the library sends by itself."""

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Finish the run. Trackio has no summary."""
        self._run.finish()
