"""Trackers: the numbers arrive in the program, a resumed run continues its series without double points, and no failure
reaches the run.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.trackers.kinds import JsonLines, WeightsAndBiases, has_credentials
from halcyon.telemetry.trackers.opening import git_state, returns_of, series_identity, shown_document, trackers_of
from halcyon.telemetry.trackers.tracker import TrackedRun, Tracker, TrackerThread
from halcyon_api.checkpoint_documents import HEAD_KEY, Epoch, Head, Owner, SkippedBatches, encode_head
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.telemetry import TrackersSpec
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document


def installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def feed(
    tracker: Tracker, resumed: int, last: int, *, end: str = "done", back: int | None = None, returns: int = 0
) -> list[str]:
    """Hand the steps of one process to a tracker, and end as the process does. Returns the warnings.

    With `back`, the process goes back to that step after the last one, and does the steps after it again with other
    losses."""
    warnings: list[str] = []
    thread = TrackerThread(
        "tracker",
        tracker,
        lambda step: TrackedRun("c0ffee", "tiny", step, {"kind": "TrainingRun"}, returns),
        lambda: {"goodput": 0.5},
        warnings.append,
    )
    thread.record(Row("start", 0.0))
    thread.record(Row("restored", 0.0, {"step": resumed, "seconds": 1.0}))
    for step in range(resumed + 1, last + 1):
        thread.record(
            Row("step", 100.0 + step, {"step": step, "loss": 1.0 / step, "eta_seconds": 1.0, "per_layer": (1.0, 2.0)})
        )
    if back is not None:
        thread.record(
            Row("rolledBack", 150.0, {"step": last, "to_step": back, "batches": last - back, "reason": "jump"})
        )
        for step in range(back + 1, last + 1):
            thread.record(Row("step", 150.0 + step, {"step": step, "loss": 2.0 / step}))
    thread.record(Row("evaluation", 200.0, {"step": last, "loss": 0.5, "source": None}))
    if end:
        thread.record(Row(end, 201.0, {"step": last}))
    thread.close(limit(60))
    return warnings


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_json_lines_has_each_step_once_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    assert feed(JsonLines(str(path)), 0, 9, end="") == []
    with path.open("a") as file:
        file.write('{"step": 9, "ti')  # the line of a killed process
    assert feed(JsonLines(str(path)), 6, 12) == []
    head, *rows = rows_of(path)
    assert head == {"run": "tiny", "id": "c0ffee", "document": {"kind": "TrainingRun"}}
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (step, 1.0 / step) for step in range(1, 13)
    ]
    assert [row["step"] for row in rows if "evaluation/loss" in row] == [12]
    assert rows[-1] == {"event": "done", "goodput": 0.5}
    assert "train/eta_seconds" not in rows[0]


def test_a_file_of_json_lines_has_each_step_once_after_a_return_to_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    assert feed(JsonLines(str(path)), 0, 9, back=5) == []
    losses = {step: (1.0 if step <= 5 else 2.0) / step for step in range(1, 10)}
    assert {row["step"]: row["train/loss"] for row in rows_of(path) if "train/loss" in row} == losses
    assert len([row for row in rows_of(path) if "train/loss" in row]) == 9
    assert rows_of(path)[-1] == {"event": "done", "goodput": 0.5}


class Series(JsonLines):
    """A tracker that cannot forget numbers; it records the series that it begins, and their steps."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.steps: dict[str, list[int]] = {}
        self.ends: list[str] = []

    def begin(self, run: TrackedRun) -> None:
        self._now = self.steps.setdefault(f"{run.title} {run.series}", [])

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        self._now.append(step)

    def flush(self) -> None:
        """Nothing waits."""

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        self.ends.append(cause)


def test_each_return_to_a_checkpoint_begins_another_series() -> None:
    series = Series()
    assert feed(series, 0, 4, back=2) == []
    assert series.steps == {"tiny c0ffee": [1, 2, 3, 4], "tiny (return 1) c0ffee-1": [3, 4, 4]}, (
        "the last one is an evaluation"
    )
    assert series.ends == ["rolledBack", "done"]
    again = Series()
    assert feed(again, 4, 5, returns=1) == []
    assert list(again.steps) == ["tiny (return 1) c0ffee-1"], "a resumed run continues the series of its last return"


def test_the_returns_of_a_run_are_those_of_its_root(tmp_path: Path) -> None:
    store = Store(CheckpointSpec(root=f"file://{tmp_path}"))
    assert returns_of(store) == 0
    epoch = Epoch(attempt=1, restart=0)
    skipped = (SkippedBatches(step=5, batches=4, reason="jump", epoch=epoch),)
    store.write(HEAD_KEY, encode_head(Head(owner=Owner(namespace="tests", name="tiny"), epoch=epoch, skipped=skipped)))
    assert returns_of(store) == 1


def test_a_file_of_something_else_is_left_alone_and_the_run_trains_on(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    (warning,) = feed(JsonLines(str(path)), 0, 3)
    assert "the run trains on without this tracker" in warning
    assert "holds something else than this run; choose another path" in warning
    assert path.read_text() == "my notes\n"


class Slow(JsonLines):
    """A tracker whose server does not answer."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.released = threading.Event()

    def begin(self, run: TrackedRun) -> None:
        self.released.wait(limit(60))


def test_a_tracker_whose_server_does_not_answer_holds_up_nothing() -> None:
    slow = Slow()
    thread = TrackerThread("slow", slow, lambda step: TrackedRun("x", "tiny", step, {}), dict, lambda warning: None)
    thread.record(Row("restored", 0.0, {"step": 0}))
    for step in range(20_000):
        thread.record(Row("step", 0.0, {"step": step, "loss": 1.0}))
    thread.close(0.0)
    assert not slow.released.is_set(), "nobody waited for the server"
    slow.released.set()


def test_the_document_shows_names_of_variables_and_no_value(tmp_path: Path) -> None:
    document = run_document(tmp_path / "root")
    document["spec"]["env"] = [{"name": "NCCL_DEBUG", "value": "s3cr3t"}]
    shown = shown_document(parse_run(document))
    assert shown["spec"]["env"] == [{"name": "NCCL_DEBUG"}]
    assert "s3cr3t" not in json.dumps(shown)


def test_the_git_state_of_a_document(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: 1\n")
    assert git_state(file) is None
    settings = ("-c", "user.name=ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "run.yaml"), (*settings, "commit", "-qm", "Add a run")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    found = git_state(file)
    assert found is not None
    assert (len(found["commit"]), found["changed"]) == (40, False)
    file.write_text("a: 2\n")
    assert git_state(file) == {"commit": found["commit"], "changed": True}


def test_the_identity_of_a_series_stays_with_the_root(tmp_path: Path) -> None:
    first, other = (Store(CheckpointSpec(root=f"file://{tmp_path / name}")) for name in ("a", "b"))
    assert series_identity(first) == series_identity(first) != series_identity(other)


def test_a_document_may_have_several_trackers() -> None:
    spec = TrackersSpec.model_validate(
        {"jsonLines": {"path": "/logs/run.jsonl"}, "wandb": {"project": "p"}, "mlflow": {"experiment": "e"}}
    )
    assert [name for name, _ in trackers_of(spec)] == ["jsonLines", "wandb", "mlflow"]
    assert trackers_of(TrackersSpec()) == []


@pytest.mark.parametrize(
    ("environ", "found"),
    [({"WANDB_MODE": "offline"}, True), ({"WANDB_API_KEY": "k"}, True), ({"NETRC": "/nowhere"}, False)],
)
def test_credentials_of_weights_and_biases_are_looked_up_without_a_question(
    environ: Mapping[str, str], found: bool
) -> None:
    assert has_credentials(environ) is found


def test_a_tracker_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (warning,) = feed(WeightsAndBiases("project"), 0, 3)
    assert "wandb is missing; install it with pip install '.[wandb]'" in warning


def test_a_tracker_without_credentials_ends_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (warning,) = feed(WeightsAndBiases("project"), 0, 3)
    assert "there are no credentials; run `wandb login`" in warning


def events_of(folder: Path) -> list[Any]:
    """The events of TensorBoard's files, which are records of length, checksum, data and checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


@installed("tensorboardX")
def test_tensorboard_purges_the_steps_that_are_done_again(tmp_path: Path) -> None:
    from halcyon.telemetry.trackers.kinds import TensorBoard

    assert feed(TensorBoard(str(tmp_path)), 0, 9, end="") == []
    assert feed(TensorBoard(str(tmp_path)), 6, 12) == []
    points: dict[int, float] = {}
    for event in events_of(tmp_path):
        if event.HasField("session_log"):
            points = {step: value for step, value in points.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "train/loss":
                assert event.step not in points
                points[event.step] = value.simple_value
    assert points == pytest.approx({step: 1.0 / step for step in range(1, 13)})


def check_twice(make: Callable[[], Tracker]) -> None:
    assert feed(make(), 0, 9, end="error") == []
    assert feed(make(), 6, 12) == []


def losses_of(path: Path) -> list[tuple[int, float]]:
    """Step and loss of each point in a file of Weights & Biases: records in blocks of 32 KiB, each in parts of the
    types 1 to 4.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            items = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in Record.FromString(whole).history.item
            }
            if "train/loss" in items:
                found.append((items["_step"], items["train/loss"]))
            whole = b""
    return found


@pytest.mark.variant
@installed("wandb")
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has a folder of its own; together they have each step once.

    After a return to a checkpoint there is another series.
    """
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert feed(WeightsAndBiases("project"), 0, 9, end="error") == []
    assert feed(WeightsAndBiases("project"), 6, 12, back=10) == []
    assert feed(WeightsAndBiases("project"), 11, 13, returns=1) == []
    files = sorted(tmp_path.glob("wandb/offline-run-*-c0ffee/run-c0ffee.wandb"))
    assert len(files) == 2
    assert sorted(point for file in files for point in losses_of(file)) == [(step, 1.0 / step) for step in range(1, 13)]
    files = sorted(tmp_path.glob("wandb/offline-run-*-c0ffee-1/run-c0ffee-1.wandb"))
    assert len(files) == 2
    assert sorted(point for file in files for point in losses_of(file)) == [(11, 2 / 11), (12, 2 / 12), (13, 1 / 13)]


@pytest.mark.variant
@installed("trackio")
def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    from halcyon.telemetry.trackers.kinds import TrackioRuns

    check_twice(lambda: TrackioRuns("project"))
    (run,) = trackio.Api().runs("project")
    assert run.name == "tiny-c0ffee"
    points = SQLiteStorage.get_metric_values("project", run.name, "train/loss", run_id=run.id)
    assert [(point["step"], point["value"]) for point in points] == [(step, 1.0 / step) for step in range(1, 13)]


@pytest.mark.variant
@installed("mlflow")
def test_mlflow_with_a_folder_as_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    from halcyon.telemetry.trackers.kinds import MlflowRuns

    check_twice(lambda: MlflowRuns("experiment"))
    client = MlflowClient()
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in points) == [(step, 1.0 / step) for step in range(1, 13)]
    assert run.data.tags["halcyon.goodput"] == "0.500"
