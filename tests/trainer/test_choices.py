"""A run chooses its automatic values once, and every later attempt takes them from the checkpoint root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.exit_codes import ExitCode
from tests.trainer.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow


def trained(document: dict[str, Any], directory: Path) -> TrainerProcesses:
    group = start_processes(document, directory)
    assert group.wait() == [ExitCode.DONE] * len(group.processes)
    return group


def plan(group: TrainerProcesses) -> dict[str, Any]:
    return next(event for event in group.leader.events if event.get("event") == "plan")


def test_a_recorded_choice_is_taken_and_a_new_one_is_recorded(tmp_path: Path) -> None:
    first = trained(run_document(tmp_path / "first", steps=4, microbatches="auto"), tmp_path / "one")
    (recorded,) = (tmp_path / "first" / "choices").iterdir()
    assert json.loads(recorded.read_text()) == {"microbatches": 1, "remat": "none"}
    assert (plan(first)["microbatches"], plan(first)["remat"]) == (1, "none")

    other = tmp_path / "second" / "choices" / recorded.name
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"microbatches": 2, "remat": "none"}))
    second = trained(run_document(tmp_path / "second", steps=4, microbatches="auto"), tmp_path / "two")
    assert plan(second)["microbatches"] == 2
    named = trained(run_document(tmp_path / "third", steps=4, microbatches=2), tmp_path / "three")
    assert second.leader.losses() == named.leader.losses()
    assert not (tmp_path / "third" / "choices").exists()
