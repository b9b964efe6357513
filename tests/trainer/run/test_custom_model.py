"""A run of a model of the user's own package: it trains, resumes bitwise, and ends with one sentence if the class does
not import.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "custom-models.md"
STEPS = 60


def document(root: Path, path: str) -> dict[str, Any]:
    run = run_document(root, slices=1, steps=STEPS)
    return {**run, "spec": {**run["spec"], "model": {"family": "custom", "class": path, "config": {"width": 16}}}}


def test_a_custom_model_trains_and_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "twogram.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))

    def group(root: str, attempt: int = 1) -> TrainerProcesses:
        run = document(tmp_path / root, "twogram:TwoGram")
        return start_processes(run, tmp_path / f"{root}-{attempt}", attempt=attempt, own_interpreter=True)

    whole = group("undisturbed").ended().leader.losses()
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert whole[STEPS] < whole[1]

    stopped = group("stopped")
    stopped.leader.wait_for(
        lambda events: any(event.get("step", 0) >= 3 for event in events if event["event"] == "step")
    )
    stopped.signal(signal.SIGTERM, 0)
    first = stopped.ended()
    assert first.leader.report()["cause"] == "preempted"
    second = group("stopped", attempt=2).ended()
    assert second.leader.report()["cause"] == "completed"
    assert min(second.leader.losses()) > 3
    assert first.leader.losses() | second.leader.losses() == whole


def test_a_custom_class_that_does_not_import_ends_the_run_before_a_device_is_taken(tmp_path: Path) -> None:
    group = start_processes(document(tmp_path / "root", "nowhere.models:Model"), tmp_path / "world").ended()
    assert group.leader.popen.returncode == ExitCode.BAD_CONFIGURATION
    report = group.leader.report()
    assert report["cause"] == "badConfiguration"
    assert report["message"].startswith("spec.model.class: nowhere.models does not import (ModuleNotFoundError")
    assert not any(event["event"] in ("joined", "step") for event in group.leader.events)
