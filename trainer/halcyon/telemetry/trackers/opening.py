"""Makes the trackers of a run document."""

import secrets
import subprocess
from pathlib import Path
from typing import Any

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.segments import METRICS_PREFIX
from halcyon.telemetry.log_line import to_camel
from halcyon.telemetry.reporter import RunReporter
from halcyon.telemetry.trackers.kinds import JsonLines, MlflowRuns, TensorBoard, TrackioRuns, WeightsAndBiases
from halcyon.telemetry.trackers.tracker import TrackedRun, Tracker, TrackerThread
from halcyon_api.checkpoint_documents import HEAD_KEY, decode_head
from halcyon_api.spec.telemetry import TrackersSpec
from halcyon_api.status.goodput import CAUSES
from halcyon_api.training_run import TrainingRun

_KINDS = (
    ("json_lines", "path", JsonLines),
    ("tensor_board", "directory", TensorBoard),
    ("wandb", "project", WeightsAndBiases),
    ("trackio", "project", TrackioRuns),
    ("mlflow", "experiment", MlflowRuns),
)
"""The field of `TrackersSpec`, its field for the argument of the tracker, and the tracker."""
IDENTITY_KEY = f"{METRICS_PREFIX}ID"
"""Key with the word that names the run's series in all trackers."""
_REQUEST_SECONDS = 60.0
_GIT_SECONDS = 5.0


def open_trackers(run: TrainingRun, reporter: RunReporter, file: Path) -> None:
    """Feed the trackers of a run from its reports. For process 0. Returns at once: they begin in their threads.

    Args:
        run: The run.
        reporter: Its reports.
        file: The run document, whose git state is attached.
    """

    def tracked(resumed_step: int) -> TrackedRun:
        store = Store(run.spec.checkpoint, timeout_seconds=_REQUEST_SECONDS)
        git = git_state(file)
        document = shown_document(run) | ({"git": git} if git is not None else {})
        return TrackedRun(series_identity(store), run.metadata.name, resumed_step, document, returns_of(store))

    spec = run.spec.telemetry.trackers
    for name, tracker in trackers_of(spec) if spec is not None else ():
        reporter.listen(TrackerThread(name, tracker, tracked, lambda: summary(reporter), reporter.warning))


def trackers_of(spec: TrackersSpec) -> list[tuple[str, Tracker]]:
    """The trackers by their names in the document."""
    return [
        (to_camel(name), kind(getattr(section, argument)))
        for name, argument, kind in _KINDS
        if (section := getattr(spec, name)) is not None
    ]


def summary(reporter: RunReporter) -> dict[str, float]:
    """The seconds of this process by cause, and the share of productive ones."""
    seconds = reporter.observe().seconds
    shares = {f"seconds/{cause}": float(getattr(seconds, cause)) for cause in CAUSES}
    return {"goodput": seconds.productive_step / seconds.total if seconds.total else 0.0, **shares}


def shown_document(run: TrainingRun) -> dict[str, Any]:
    """The run document for a tracker: of environment variables only the names, because a value may be a secret."""
    document = run.document()
    if env := document["spec"].get("env"):
        document["spec"]["env"] = [{"name": variable["name"]} for variable in env]
    return document


def returns_of(store: Store) -> int:
    """How often the run of a root has gone back to an earlier checkpoint.

    Raises:
        StoreFailure: The root did not answer.
    """
    data = store.read(HEAD_KEY).data
    return 0 if data is None else len(decode_head(data).skipped)


def series_identity(store: Store) -> str:
    """The word that names the series of the run that has this root; made at its first start.

    Raises:
        StoreFailure: The root did not answer.
    """
    if store.read(IDENTITY_KEY).data is None:
        store.create(IDENTITY_KEY, secrets.token_hex(8).encode())
    return (store.read(IDENTITY_KEY).data or b"").decode()


def git_state(document: Path) -> dict[str, Any] | None:
    """The commit of the run document's repository, so that the document of a series can be found again, and whether the
    document differs from it; None outside a repository, or without git.
    """
    commit = _git(document.parent, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changed = _git(document.parent, "status", "--porcelain", "--", document.name)
    return {"commit": commit, "changed": changed != ""}


def _git(folder: Path, *words: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()
