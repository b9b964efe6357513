"""The whole path in its own namespaces: object store, operator from the chart, trainers from their image, and an
undisturbed run.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from obstore.store import S3Store
from rich.console import Console

from halcyon_api.generate.crd import definitions
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_demo.comparison import Loss, losses
from halcyon_demo.documents import EXAMPLES, example, load, variant
from halcyon_demo.install import (
    STORE,
    Images,
    Namespaces,
    chart_values,
    install_object_store,
    install_operator,
    moved,
    provide_images,
    uninstall_operator,
)
from halcyon_demo.records import LogLine
from halcyon_demo.training import RESOURCE, Training
from halcyon_demo.watch import Watch
from halcyon_devcluster.forwarding import forwarded
from halcyon_devcluster.progress import ConsoleProgress
from tests.cluster.kept_programs import KeptPrograms
from tests.cluster.scripted import Operator
from tests.families import llama
from tests.trainer.support.shared_programs import kept_folder

if TYPE_CHECKING:
    from tests.cluster.conftest import DevCluster

STEPS = 200
SAVE_EVERY = 20
UNCOUNTED_STEPS = 2
"""Steps by which the count of a killed process and that of the others may differ: a process counts a step after it has
dispatched the next one, and may have dispatched one that another has not."""


@dataclass(frozen=True)
class WholePath:
    """The whole path, installed in its own namespaces."""

    devcluster: DevCluster
    place: Namespaces
    watch: Watch
    document: dict[str, Any]
    cache: Path
    """Where compiled programs are kept for later sessions."""
    images: Images

    def training(self, name: str, *, task: str = "train", cache: str | None = None, **checkpoint: Any) -> Training:
        """A run with its own name and checkpoint root; other fields of `spec.checkpoint` by keyword."""
        document = variant(self.document, name=name)
        document["spec"]["checkpoint"] |= checkpoint
        document["spec"]["task"] = task
        if cache is not None:
            document["spec"]["data"]["cache"] = {"root": cache}
        return self.training_of(document)

    def training_of(self, document: dict[str, Any]) -> Training:
        """A run of exactly this document."""
        self.programs.lend(document)
        return Training(
            self.devcluster.kubectl, self.devcluster.faults, self.watch.observations, self.place.runs, document
        )

    def finish(self, training: Training) -> tuple[TrainingRunStatus, tuple[LogLine, ...]]:
        """The status and the log of a run when it has succeeded.

        Also checks that goodput accounts for every second of it.
        """
        run = training.wait_for_phase("Succeeded")
        self.watch.finish_logs(training.name)
        lines = training.lines()
        check_accounts(run.status, lines)
        return run.status, lines

    def suspend(self, training: Training, suspend: bool) -> None:
        patch = json.dumps({"spec": {"suspend": suspend}})
        self.devcluster.kubectl(
            "patch", RESOURCE, training.name, "--namespace", self.place.runs, "--type=merge", f"--patch={patch}"
        )
        if suspend:
            training.wait_for_phase("Suspended")

    @contextmanager
    def root(self, name: str) -> Iterator[S3Store]:
        """The checkpoint root of a run, to read and to damage."""
        documents = [document for path in (EXAMPLES / STORE).glob("*.yaml") for document in load(path)]
        keys = next(document["stringData"] for document in documents if document["kind"] == "Secret")
        with forwarded(self.devcluster.kubectl, self.place.runs, f"service/{STORE}", 7070) as url:
            yield S3Store(
                "checkpoints",
                prefix=name,
                endpoint=url,
                access_key_id=keys["AWS_ACCESS_KEY_ID"],
                secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                region="us-east-1",
                client_options={"allow_http": True},
            )

    @cached_property
    def programs(self) -> KeptPrograms:
        """Compiled programs of earlier sessions."""
        return KeptPrograms(self.cache, self.root)

    @property
    def operator(self) -> Operator:
        return Operator(self.devcluster, self.place.operator)


def check_accounts(status: TrainingRunStatus, lines: tuple[LogLine, ...]) -> None:
    """Check that the causes add up to the time from the run's start to its last log line, and that all steps but the
    lost ones were productive."""
    goodput, started = status.goodput, status.started_at
    assert goodput is not None
    assert started is not None
    assert goodput.seconds.total == pytest.approx(goodput.wall_seconds, abs=0.001)
    assert status.finished_at is not None
    began = datetime.fromisoformat(started).timestamp() + goodput.suspended_seconds
    last_line_time, finished = max(line.time for line in lines), datetime.fromisoformat(status.finished_at).timestamp()
    # Kubernetes writes whole seconds, for the start and for the end.
    assert last_line_time - began - 1.5 <= goodput.wall_seconds <= max(last_line_time, finished) - began + 1.5
    groups = [entry.seconds for entry in status.history if entry.seconds is not None]
    assert len(groups) == len(status.history), "the seconds of every process group are final"
    assert goodput.wall_seconds == pytest.approx(sum(group.total for group in groups), abs=0.01)
    steps = [line for line in lines if line.event == "step"]
    # The log has no line for each batch of an evaluation; they count as steps.
    again = (
        len(steps) - len({line.step for line in steps})
        if steps
        else sum(map(repeated, status.history, status.history[1:]))
    )
    crashes = sum(entry.cause == "failed" for entry in status.history)
    assert abs(again - goodput.lost_steps) <= UNCOUNTED_STEPS * crashes, (again, goodput.lost_steps)
    if goodput.lost_steps:
        assert goodput.seconds.lost_work > 0
    if steps:
        assert goodput.seconds.productive_step > 0


def repeated(group: HistoryEntry, following: HistoryEntry) -> int:
    """Number of steps of a process group that the next one did again."""
    return max(0, (group.to_step or 0) - max(following.from_step or 0, group.from_step or 0))


def small_document(place: Namespaces) -> dict[str, Any]:
    """The demo's example with a small model and steps of a few milliseconds."""
    (document,) = moved([example("stdlib-llama")], place)
    spec = document["spec"]
    spec["model"] = llama(2, 32, 64, 4, numKeyValueHeads=2)
    spec["trainer"] = {
        "steps": STEPS,
        "batchSize": 8,
        "sequenceLength": 32,
        "evaluation": {"everySteps": 100, "batches": 1},
    }
    spec["checkpoint"]["save"] = {"everySteps": SAVE_EVERY}
    return document


@pytest.fixture(scope="session")
def path(devcluster: DevCluster) -> Iterator[WholePath]:
    mark = secrets.token_hex(3)
    place = Namespaces(runs=f"test-runs-{mark}", operator=f"test-operator-{mark}")
    cluster = devcluster.cluster
    images = provide_images(cluster, ConsoleProgress(Console(stderr=True)))
    try:
        install_object_store(cluster, images.store, place)
        # Other tests apply the CRDs at the same time. Helm takes over what exists when it looks, but what appears
        # between its look and its write is a conflict that no flag solves (helm/helm#32069).
        devcluster.kubectl.apply(definitions())
        small = {"mode": "warn", "seconds": 300, "cpu": "250m", "memory": "3Gi"}
        install_operator(cluster, chart_values(images, place, kueue={"enabled": True}, planning=small), place)
        with Watch(devcluster.kubectl, place.runs) as watch:
            whole = WholePath(
                devcluster, place, watch, small_document(place), kept_folder(os.environ) / "cluster", images
            )
            yield whole
            whole.programs.keep()
    finally:
        devcluster.kubectl("delete", "namespace", place.runs, "--ignore-not-found")
        uninstall_operator(cluster, place)
        devcluster.kubectl("delete", "namespace", place.operator, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="session")
def undisturbed(path: WholePath) -> list[Loss]:
    training = path.training("undisturbed")
    training.apply()
    status, lines = path.finish(training)
    assert status.restarts.total == 0
    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.source) == (STEPS, "root")
    return losses(lines, training.name)
