"""The operator's view of runs of task ``replay``: they succeed if all is as in the other run, and stop if not."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from tests.operator.builders import at, ended, jobset, observed, pod, report, run, termination
from tests.operator.test_attempts import status

ORIGIN = {"run": "base", "step": 100, "root": "s3://bucket/base"}
TASK: dict[str, Any] = {"task": "replay", "from": ORIGIN}
FOUND = "different: steps 101 to 150 do not have the bits of the run; step 103: the loss is 2.5 here, and was 2.25"


def made(**more: Any) -> dict[str, Any]:
    """A replay in its first attempt."""
    document = run(**TASK)
    return document | {"status": status(attemptSpecHash=attempt_spec_hash(parse_run(document).spec), **more)}


def test_a_replay_is_replaying_and_its_success_names_the_steps() -> None:
    seen = report(step=120, stage="training")
    running = reconcile(observed(made(), jobsets=[jobset()], pods=[pod(), pod(slice_index=1)], report=seen), at(60))
    assert running.status.condition("Ready").message == "attempt 1, restart 0 is replaying"
    left = termination("completed", 0, step=150, progress={"step": 150, "steps": 300})
    pods = [pod(**ended(0, 90, left)), pod(slice_index=1, **ended(0, 90, termination("completed", 0, step=150)))]
    document = made() | {"status": running.status.document()}
    done = reconcile(observed(document, jobsets=[jobset(outcome="Completed")], pods=pods), at(100)).status
    assert done.phase == "Succeeded"
    assert done.condition("Ready").message == (
        "steps 101 to 150 of run base are confirmed; replay.json in checkpoint.root has what was compared"
    )


@pytest.mark.parametrize("to_step", [None, 150])
def test_a_replay_without_a_report_of_its_steps_confirms_none(to_step: int | None) -> None:
    """Exit code 0 alone, as of another program in the image, shows no step."""
    document = run(**{"task": "replay", "from": ORIGIN | ({} if to_step is None else {"toStep": to_step})})
    before = status(attemptSpecHash=attempt_spec_hash(parse_run(document).spec))
    pods = [pod(**ended(0, 90)), pod(slice_index=1, **ended(0, 90))]
    seen = observed(document | {"status": before}, jobsets=[jobset(outcome="Completed")], pods=pods)
    stalled = reconcile(seen, at(200)).status.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "EndedEarly")
    assert f"only 0 of {to_step or 101} steps are known to be done" in stalled.message


def test_a_replay_that_differs_stops_with_what_it_has_found_and_is_not_restarted() -> None:
    pods = [pod(**ended(89, 90, termination("replayDiffers", 89, step=150, message=FOUND)))]
    decision = reconcile(observed(made(), jobsets=[jobset(outcome="Failed")], pods=pods), at(100))
    stalled = decision.status.condition("Stalled")
    assert (decision.status.phase, stalled.status, stalled.reason) == ("Failed", "True", "ReplayDiffers")
    assert FOUND in stalled.message
    assert decision.create == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"task": "replay"}, "from"),
        ({"task": "replay", "from": {"run": "base"}}, "from"),
        ({"task": "replay", "from": ORIGIN | {"weightsOnly": True}}, "from"),
        ({"task": "replay", "from": ORIGIN | {"toStep": 100}}, "toStep"),
        ({"task": "train", "from": ORIGIN | {"toStep": 150}}, "from"),
        ({"task": "evaluate", "from": ORIGIN | {"toStep": 150}}, "from"),
        ({**TASK, "export": {"everySteps": 10}}, "export"),
    ],
)
def test_a_replay_needs_a_checkpoint_and_only_a_replay_has_a_last_step(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRun, match=rf"spec(\.from)?: .*\b{field}\b"):
        parse_run(run(**spec))
    parse_run(run(**{"task": "replay", "from": ORIGIN | {"toStep": 150}}))
