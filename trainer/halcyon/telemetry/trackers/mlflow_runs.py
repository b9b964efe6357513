"""MLflow, at the address of its own variable ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.trackers.tracker import TrackedRun, library

_TAG = "halcyon.id"
_BATCH = 500
"""Numbers of a request; a server takes at most 1000."""
_LONGEST_TAG = 5000


class MlflowRuns:
    """A run of MLflow, found again by its tag after each restart.

    Args:
        experiment: Name of the experiment.
    """

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._client: Any = None
        self._metric: Any = None
        self._run_id = ""
        self._waiting: list[Any] = []
        self._last: dict[str, int] = {}

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: mlflow is not installed.
            ValueError: There is no server.
            Exception: The library raised it.
        """
        mlflow = library("mlflow", "mlflow")
        self._metric = library("mlflow.entities", "mlflow").Metric
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ValueError("there is no server; set MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient()
        self._last.clear()
        experiment = self._client.get_experiment_by_name(self._experiment)
        identity = (
            experiment.experiment_id if experiment is not None else self._client.create_experiment(self._experiment)
        )
        found = self._client.search_runs([identity], filter_string=f"tags.`{_TAG}` = '{run.series}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {_TAG: run.series, "halcyon.document": json.dumps(run.document)[:_LONGEST_TAG]}
            self._run_id = self._client.create_run(identity, run_name=run.title, tags=tags).info.run_id

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Queue numbers. Those of steps that the server has already are bitwise the same, and are left out."""
        for name, value in values.items():
            if step > self._last_step(name) and math.isfinite(value):
                self._waiting.append(self._metric(name, value, round(1000 * time), step))

    def _last_step(self, name: str) -> int:
        if name not in self._last:
            known = self._client.get_metric_history(self._run_id, name)
            self._last[name] = max((metric.step for metric in known), default=-1)
        return self._last[name]

    def flush(self) -> None:
        """Send the numbers."""
        while self._waiting:
            self._client.log_batch(self._run_id, metrics=self._waiting[:_BATCH])
            del self._waiting[:_BATCH]

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Add the summary as tags, and end the run."""
        for name, value in summary.items():
            self._client.set_tag(self._run_id, f"halcyon.{name.replace('/', '.')}", f"{value:.3f}")
        self._client.set_terminated(self._run_id, {"done": "FINISHED", "error": "FAILED"}.get(cause, "KILLED"))
