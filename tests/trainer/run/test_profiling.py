"""A window of steps is profiled: by the document, and on request while the run trains.

The losses stay the same, bit for bit.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.trainer.support.process_groups import run_document, start_processes

pytestmark = pytest.mark.slow


def profiled(
    directory: Path, name: str, *, slices: int, profile: dict[str, int] | None
) -> tuple[dict[int, float], list[dict[str, Any]], Path]:
    root = directory / name / "root"
    run = run_document(root, slices=slices, steps=8)
    if profile is not None:
        run["spec"]["telemetry"]["profile"] = profile
    group = start_processes(run, directory / name / "run")
    assert set(group.wait()) == {ExitCode.DONE}, group.leader.noise[-20:]
    events = [
        event
        for process in group.processes
        for event in process.events
        if event.get("event") in ("profiled", "warning")
    ]
    return group.leader.losses(), events, root


def test_every_process_keeps_a_profile_of_the_window(tmp_path: Path) -> None:
    _, events, root = profiled(tmp_path, "with", slices=2, profile={"atStep": 4, "steps": 2})
    assert [(event["event"], event["step"], event["steps"]) for event in events] == [("profiled", 4, 2)] * 2, events
    folder = root / "profiles" / "000000000004.1.0"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "plugins/profile/steps/process-0.xplane.pb",
        "plugins/profile/steps/process-1.xplane.pb",
        "process-0.json",
        "process-0.memory.pb.gz",
        "process-0.trace.json.gz",
        "process-1.json",
        "process-1.memory.pb.gz",
        "process-1.trace.json.gz",
        "step.hlo.txt.gz",
    ]
    trace = json.loads(gzip.decompress((folder / "process-0.trace.json.gz").read_bytes()))
    assert len(trace["traceEvents"]) > 100
    assert "HloModule jit_train_step" in gzip.decompress((folder / "step.hlo.txt.gz").read_bytes()).decode()
    numbers = json.loads((folder / "process-1.json").read_text())
    assert (numbers["process"], numbers["firstStep"], numbers["steps"]) == (1, 4, 2)
    assert 0 < numbers["stepSeconds"]["p50"] <= numbers["stepSeconds"]["p99"]
    assert numbers["collectiveSeconds"] > 0, "two processes exchange gradients"
    assert numbers["secondsByCause"]["compile"] > 0


@pytest.mark.variant
def test_a_profile_changes_no_loss(tmp_path: Path) -> None:
    losses, events, _ = profiled(tmp_path, "with", slices=1, profile={"atStep": 2, "steps": 100})
    assert [(event["event"], event["step"], event["steps"]) for event in events] == [("profiled", 2, 7)], (
        "it ends with the run"
    )
    assert losses == profiled(tmp_path, "without", slices=1, profile=None)[0]
