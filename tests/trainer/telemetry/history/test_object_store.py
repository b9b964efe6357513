"""The history of a run whose root is in an object store: a real S3 gateway."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.reading import copy_history, list_segments, read_history
from halcyon_api.checkpoint_documents import HEAD_KEY, Epoch, Head, Owner, encode_head
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_cli.main import app
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root
from tests.trainer.support.process_groups import run_document, start_processes
from tests.trainer.telemetry.history.rows import Recorder, group, row

pytestmark = pytest.mark.slow


def test_a_killed_and_resumed_run_is_merged_copied_and_read(s3_root: Root, tmp_path: Path) -> None:
    store = Store(s3_root.spec)
    owner = Owner(namespace="tests", name="tiny")
    store.write(HEAD_KEY, encode_head(Head(owner=owner, epoch=Epoch(attempt=1, restart=0), writer="w1")))
    first = Recorder(s3_root.spec, group(1))
    for number in range(1, 10):
        first.flush([row(number)])
    counting, left = list_segments(store)
    assert [(name.first, name.last, name.level) for name in counting] == [(1, 8, 1), (9, 9, 0)]
    assert left == []
    second = Recorder(s3_root.spec, group(1, resumed=6, attempt=2, writer="w2", began=2000.0)).writer
    for number in range(7, 13):
        second.record(row(number, 2.0))
    second.record(Row("evaluation", 13.0, {"step": 12, "loss": 2.5}))
    second.close(limit(30))
    found = read_history(store)
    assert [(one["step"], one["loss"]) for one in found.steps] == [
        (number, 1.0 if number <= 6 else 2.0) for number in range(1, 13)
    ]
    assert [(one["step"], one["loss"]) for one in found.evaluations] == [(12, 2.5)]
    assert found.damages == ()
    to = Store(CheckpointSpec(root=f"file://{tmp_path}"))
    copy_history(store, to, 10)
    assert [one["step"] for one in read_history(to).steps] == list(range(1, 11))


@pytest.mark.variant
def test_the_report_of_a_run_in_an_object_store(s3_root: Root, tmp_path: Path) -> None:
    run = run_document(tmp_path / "unused", slices=1, steps=6)
    run["spec"]["checkpoint"] |= {"root": s3_root.spec.root, "endpoint": s3_root.spec.endpoint}
    trained = start_processes(run, tmp_path / "run")
    assert trained.wait() == [ExitCode.DONE], trained.leader.noise[-20:]
    result = CliRunner().invoke(app, ["report", s3_root.spec.root, "--endpoint", str(s3_root.spec.endpoint), "--json"])
    assert result.exit_code == 0, result.stderr
    losses = {one["step"]: one["loss"] for one in json.loads(result.stdout)["history"]["steps"]}
    assert losses == trained.leader.losses()
