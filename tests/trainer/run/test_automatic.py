"""A run chooses its automatic values once, and every later attempt takes them from the checkpoint root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halcyon.host.errors import TrainerExit
from halcyon.host.storage.store import Store
from halcyon.run.auto_tuning import Choice
from halcyon.run.recorded_tuning import RunChoice
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoint.helpers import OneProcess
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow


def test_another_choice_that_was_recorded_meanwhile_ends_the_start(tmp_path: Path) -> None:
    store = Store(CheckpointSpec(root=f"file://{tmp_path}"))
    choice = object.__new__(RunChoice)
    choice._processes, choice._store, choice._key = OneProcess(), store, "choices/a.json"  # type: ignore[assignment]
    choice._new = Choice(2, "none")
    choice.keep()
    choice.keep()
    choice._new = Choice(4, "none")
    with pytest.raises(
        TrainerExit, match=r"another start of the run has recorded other automatic values in .*; start it again"
    ):
        choice.keep()


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
