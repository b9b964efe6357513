"""A run whose evaluations do not improve stops as a success, keeps its best checkpoint, and decides the same after a
restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.opening import list_checkpoints
from halcyon_api.ends import ExitCode
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = pytest.mark.slow


def document(root: Path, patience: int, **save: Any) -> dict[str, Any]:
    """After the first evaluation no evaluation improves enough."""
    best = {"average": "macro", "of": "all-text", "patience": patience, "minImprovement": 100.0}
    by_source = {"tags": [{"name": "all-text", "sources": ["corpus", "more"]}]}
    run = run_document(
        root,
        slices=1,
        steps=30,
        evaluation={"everySteps": 4, "batches": 1, "bySource": by_source, "best": best},
        logEverySteps=1,
    )
    corpus = run["spec"]["data"]["sources"][0]
    run["spec"]["data"] = {"sources": [corpus, {**corpus, "name": "more"}], "validation": {"fraction": 0.1}}
    run["spec"]["checkpoint"]["save"] = {"everySteps": 3, **save}
    return run


def ended(run: dict[str, Any], directory: Path, attempt: int = 1) -> TrainerProcesses:
    group = start_processes(run, directory, attempt=attempt)
    assert group.wait() == [ExitCode.DONE], group.leader.noise[-20:]
    return group


def evaluations(group: TrainerProcesses) -> list[dict[str, Any]]:
    return [event for event in group.leader.events if event.get("event") == "evaluation"]


def steps_in(root: Path) -> list[int]:
    return [entry.step for entry in list_checkpoints(CheckpointSpec(root=f"file://{root}")).committed]


def test_a_run_stops_early_keeps_its_best_checkpoint_and_goes_on_with_more_patience(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = ended(document(root, 2), tmp_path / "run")
    assert max(first.leader.losses()) == 12
    report = first.leader.report()
    assert report["message"].startswith(
        "stopped early after step 12 of 30, which is saved: the macro loss of all-text has not improved in 2"
    )
    assert (report["progress"]["bestStep"], report["progress"]["stoppedEarly"], report["step"]) == (4, True, 12)
    found = evaluations(first)
    assert [(one["step"], one.get("source"), one.get("tag")) for one in found if one["step"] == 4] == [
        (4, "corpus", None),
        (4, "more", None),
        (4, None, "all-text"),
        (4, None, None),
    ]
    tag = next(one for one in found if one.get("tag"))
    assert tag["macroLoss"] == report["progress"]["bestEvaluation"]
    assert steps_in(root) == [12, 9, 4], "two newest, and the best"

    more = ended(document(root, 3), tmp_path / "run", attempt=2)
    assert sorted(more.leader.losses()) == [13, 14, 15, 16], "it counts on from the evaluations of the first process"
    assert steps_in(root) == [16, 15, 4]


@pytest.mark.variant
def test_an_evaluation_that_the_checkpoint_lacks_is_made_after_the_restart(tmp_path: Path) -> None:
    run = document(tmp_path / "root", 2, beforeEvaluation=True)
    first = ended(run, tmp_path / "run")
    again = ended(run, tmp_path / "run", attempt=2)
    assert max(first.leader.losses()) == 12
    assert again.leader.losses() == {}
    assert again.leader.report()["message"].startswith("stopped early after step 12 of 30")
    numbers = [
        [{**one, "seconds": 0, "time": 0, "attempt": 0} for one in evaluations(each) if one["step"] == 12]
        for each in (first, again)
    ]
    assert numbers[0] == numbers[1] != []
