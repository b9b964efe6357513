"""A run that starts from another run's checkpoint continues bitwise as that run would, if nothing differs."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.trainer.checkpoint.helpers import snapshot_of
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow


def clone_of(source: dict[str, Any], root: Path, *, step: int | None = None, **trainer: Any) -> dict[str, Any]:
    origin = {"run": source["metadata"]["name"], "root": source["spec"]["checkpoint"]["root"]}
    document = run_document(root, slices=1, name="clone")
    spec = source["spec"] | {
        "from": origin | ({} if step is None else {"step": step}),
        "checkpoint": source["spec"]["checkpoint"] | {"root": f"file://{root}"},
        "telemetry": document["spec"]["telemetry"],
        "trainer": source["spec"]["trainer"] | trainer,
    }
    return document | {"spec": spec}


def ended(group: TrainerProcesses) -> dict[int, float]:
    assert set(group.wait()) == {ExitCode.DONE}, group.leader.noise[-20:]
    return group.leader.losses()


@pytest.mark.variant
def test_a_clone_continues_as_its_source_did_and_does_not_depend_on_it(tmp_path: Path) -> None:
    source = run_document(tmp_path / "root", slices=2, steps=20)
    source["spec"]["checkpoint"]["keep"] = 4
    expected = ended(start_processes(source, tmp_path / "source"))
    before = snapshot_of(tmp_path / "root")

    same = clone_of(source, tmp_path / "same-root", step=10)
    losses = ended(start_processes(same, tmp_path / "same"))
    assert losses == {step: loss for step, loss in expected.items() if step > 10}
    head = json.loads((tmp_path / "same-root" / "HEAD").read_text())
    assert head["owner"]["name"] == "clone"
    assert [entry["step"] for entry in head["committed"]] == [20, 15, 10]
    assert snapshot_of(tmp_path / "root") == before, "the root of another run is only read"

    # Another data order and learning rate, more steps; one process instead of two; after its first commit it no longer
    # needs its source.
    other = clone_of(source, tmp_path / "other-root", steps=10**6, seed=5)
    other["spec"]["optimizer"] = {"learningRate": 0.001, "schedule": {"constant": {}}, "adamw": {}}
    other["spec"]["accelerator"] = {"type": "cpu", "topology": "1x2"}
    first = start_processes(other, tmp_path / "other")
    first.leader.wait_for(lambda events: any(event.get("event") == "step" and event["step"] >= 24 for event in events))
    first.signal(signal.SIGTERM, 0)
    assert first.wait() == [ExitCode.PREEMPTED]
    assert min(first.leader.losses()) == 21, "the newest checkpoint of the source"
    shutil.rmtree(tmp_path / "root")
    last = max(first.leader.losses())
    again = start_processes(
        other | {"spec": other["spec"] | {"trainer": other["spec"]["trainer"] | {"steps": last + 3}}},
        tmp_path / "other",
        attempt=2,
    )
    assert sorted(ended(again)) == [last + 1, last + 2, last + 3]
