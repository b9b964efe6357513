"""The trackers: JSON lines, TensorBoard, Weights & Biases, Trackio and MLflow."""

import json
import math
import netrc
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import orjson

from halcyon.host.storage.files import write_file
from halcyon.telemetry.trackers.tracker import Numbers, TrackedRun, library
from halcyon_api.yaml_text import dump

_TAG = "halcyon.id"
_BATCH = 500
"""Numbers of a request; a server takes at most 1000."""
_LONGEST_TAG = 5000
_SERVER = "https://api.wandb.ai"
_WITHOUT_SERVER = ("offline", "disabled", "dryrun")


@dataclass
class MlflowRuns:
    """A run of MLflow, at the address of its own variable ``MLFLOW_TRACKING_URI``, found again by its tag after each
    restart.
    """

    experiment: str
    """Name of the experiment."""

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
        self._waiting: list[Any] = []
        self._last: dict[str, int] = {}
        experiment = self._client.get_experiment_by_name(self.experiment)
        identity = (
            experiment.experiment_id if experiment is not None else self._client.create_experiment(self.experiment)
        )
        found = self._client.search_runs([identity], filter_string=f"tags.`{_TAG}` = '{run.series}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {_TAG: run.series, "halcyon.document": json.dumps(run.document)[:_LONGEST_TAG]}
            self._run_id = self._client.create_run(identity, run_name=run.title, tags=tags).info.run_id

    def numbers(self, step: int, time: float, values: Numbers) -> None:
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

    def end(self, cause: str, summary: Numbers) -> None:
        """Add the summary as tags, and end the run."""
        for name, value in summary.items():
            self._client.set_tag(self._run_id, f"halcyon.{name.replace('/', '.')}", f"{value:.3f}")
        self._client.set_terminated(self._run_id, {"done": "FINISHED", "error": "FAILED"}.get(cause, "KILLED"))


@dataclass
class TrackioRuns:
    """A run of Trackio in a local database, or in a Space of Hugging Face by its own variable ``TRACKIO_SPACE_ID``;
    under the same name after each restart.
    """

    project: str
    """The project."""

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: trackio is not installed.
            Exception: The library raised it.
        """
        trackio = library("trackio", "trackio")
        self._run = trackio.init(
            project=self.project,
            name=f"{run.name}-{run.identity[:6]}{run.series.removeprefix(run.identity)}",
            config=dict(run.document),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        # The library has no public name for the step after the last one that it holds.
        self._first = int(getattr(self._run, "_next_step", 0))

    def numbers(self, step: int, time: float, values: Numbers) -> None:
        """Add numbers. Those of steps that the run has already are bitwise the same, and are left out."""
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Do nothing: the library sends by itself."""

    def end(self, cause: str, summary: Numbers) -> None:
        """Finish the run. Trackio has no summary."""
        self._run.finish()


@dataclass
class TensorBoard:
    """A folder of event files for TensorBoard, written by tensorboardX. Each process writes a file; at its start it
    purges the steps that it does again from the earlier ones.
    """

    directory: str
    """The folder; of one run only."""

    def begin(self, run: TrackedRun) -> None:
        """Open a file.

        Raises:
            ModuleNotFoundError: tensorboardX is not installed.
        """
        self._writer = library("tensorboardX", "tensorboard").SummaryWriter(
            self.directory,
            purge_step=run.resumed_step + 1,
            # two processes may begin in the same second
            filename_suffix=f".{run.resumed_step:012d}.{secrets.token_hex(4)}",
        )
        self._writer.add_text("document", f"```yaml\n{dump(dict(run.document))}\n```", run.resumed_step)

    def numbers(self, step: int, time: float, values: Numbers) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, time)

    def flush(self) -> None:
        """Write what was added."""
        self._writer.flush()

    def end(self, cause: str, summary: Numbers) -> None:
        """Add the summary as text, and close the file."""
        rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in summary.items())
        self._writer.add_text("end", f"{cause}\n\n| | |\n|---|---|\n{rows}")
        self._writer.close()


@dataclass
class WeightsAndBiases:
    """A run of Weights & Biases, under the same id after each restart. It takes only steps after its last one.

    Its own environment variables set account, server and mode (``WANDB_MODE=offline`` needs neither). Online, the
    server says after which step it continues. Offline, the library begins a folder for each process and knows nothing
    of the earlier ones; ``wandb sync`` later sends all of them, one after the other, under that id. So the last step is
    kept in a small file beside these folders. It is written before the numbers: after a kill, a point may be missing,
    but none is there twice.
    """

    project: str
    """The project."""

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the run.

        Raises:
            ModuleNotFoundError: wandb is not installed.
            PermissionError: There are no credentials. The library would ask for them on the terminal.
            Exception: The library raised it.
        """
        wandb = library("wandb", "wandb")
        if not has_credentials(os.environ):
            raise PermissionError(
                "there are no credentials; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
            )
        self._run = wandb.init(
            project=self.project,
            id=run.series,
            name=run.title,
            resume="allow",
            config=dict(run.document),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._first = int(self._run.starting_step)
        self._last_step: Path | None = None
        if self._run.offline:
            self._last_step = Path(self._run.sync_dir).parent / f"halcyon-{run.series}.step"
            with suppress(OSError, ValueError):
                self._first = max(self._first, int(self._last_step.read_text(encoding="ascii")) + 1)

    def numbers(self, step: int, time: float, values: Numbers) -> None:
        """Add numbers. Those of steps that the run has already are bitwise the same, and are left out."""
        if step >= self._first:
            self._waiting.append((step, dict(values)))

    def flush(self) -> None:
        """Hand the numbers to the library, which sends by itself."""
        if self._waiting and self._last_step is not None:
            write_file(self._last_step, [str(max(step for step, _ in self._waiting)).encode()])
        for step, values in self._waiting:
            self._run.log(values, step=step)
        self._waiting.clear()

    def end(self, cause: str, summary: Numbers) -> None:
        """Finish the run."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=1 if cause == "error" else 0)


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Whether the library will find credentials, or needs none."""
    if (
        environ.get("WANDB_MODE") in _WITHOUT_SERVER
        or environ.get("WANDB_API_KEY")
        or environ.get("WANDB_IDENTITY_TOKEN_FILE")
    ):
        return True
    host = urlparse(environ.get("WANDB_BASE_URL") or _SERVER).hostname or ""
    try:
        return netrc.netrc(environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@dataclass
class JsonLines:
    """A file with one JSON object for each row, which any program can follow: first the run and its document, then the
    numbers of each step.

    A resumed run continues the file: lines of steps after the resumed one are cut off, because they are done again. So
    is a half line of a process that was killed while it wrote.
    """

    path: str
    """The file. Its folder is made."""

    def begin(self, run: TrackedRun) -> None:
        """Open the file at the resumed step.

        Raises:
            ValueError: The file belongs to another run.
            OSError: It cannot be written.
        """
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        try:
            end = self._kept(file, run)
            file.truncate(end)
        except BaseException:
            file.close()
            raise
        self._file = file
        if end == 0:
            self._write({"run": run.name, "id": run.identity, "document": run.document})
            self._file.flush()

    def _kept(self, file: BinaryIO, run: TrackedRun) -> int:
        """The size of the part of the file that stays."""
        file.seek(0)
        end = 0
        for number, line in enumerate(file):
            try:
                row = orjson.loads(line) if line.endswith(b"\n") else None
            except orjson.JSONDecodeError:
                row = None
            if number == 0 and (not isinstance(row, dict) or row.get("id") != run.identity):
                raise ValueError(f"{self.path} holds something else than this run; choose another path")
            if row is None or row.get("step", 0) > run.resumed_step:
                break
            end += len(line)
        return end

    def numbers(self, step: int, time: float, values: Numbers) -> None:
        """Add a line."""
        self._write({"step": step, "time": round(time, 3), **values})

    def flush(self) -> None:
        """Hand the lines to the operating system."""
        self._file.flush()

    def end(self, cause: str, summary: Numbers) -> None:
        """Close the file. Its last line says how the process ended; the next process may append after it."""
        self._write({"event": cause, **summary})
        self._file.close()

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
