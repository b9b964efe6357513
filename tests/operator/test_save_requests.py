"""Requested checkpoints: the request is sent until a trainer accepts it, and recorded with the step that serves it,
whatever happens meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from halcyon_api import names
from halcyon_api.post_requests import request_id
from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import UID, at, head, jobset, observed, pod, report, rfc, run
from tests.operator.simulation import PODS, SimulatedCluster
from tests.operator.test_attempts import status
from tests.operator.training import reconcile_training

NOW = at(60)
ID = request_id("user", f"{UID}/now")


def asking(value: str = "now", **known: Any) -> dict[str, Any]:
    document = run(status(**known))
    document["metadata"]["annotations"] = {names.ANNOTATION_CHECKPOINT: value}
    return document


reconciled = partial(reconcile_training, ID)


def test_a_new_value_is_recorded_and_requested_from_the_trainer() -> None:
    decision = reconciled(asking())
    assert decision.status.save_request.document() == {"value": "now", "requestedAt": rfc(60)}
    (ask,) = decision.asks
    assert (ask.ip, ask.port, ask.token) == ("10.0.0.1", 9400, "the-token")
    assert ask.request.document() == {"id": ID, "run": "demo", "attempt": 1, "restart": 0}
    assert decision.requeue_after <= 2
    assert "the-token" not in repr(decision)
    assert "the-token" not in decision.status.model_dump_json()


def test_an_accepted_request_is_not_repeated_and_is_served_by_a_save_from_its_step_on() -> None:
    known = {"saveRequest": {"value": "now", "requestedAt": rfc(50)}}
    waiting = reconciled(asking(**known), taken=15, saved=10)
    assert waiting.asks == ()
    assert waiting.status.save_request.document() == {"value": "now", "requestedAt": rfc(50), "askedStep": 15}
    for saved in (15, 17):
        served = reconciled(asking(**known), taken=15, saved=saved)
        assert (served.asks, served.status.save_request.step) == ((), saved)
        assert [event.message for event in served.events if event.reason == "CheckpointSaved"] == [
            f"The checkpoint of step {saved} holds all that was trained when it was asked for (now)"
        ]


def test_a_served_request_is_not_repeated_until_its_value_changes() -> None:
    known = {"saveRequest": {"value": "now", "requestedAt": rfc(50), "askedStep": 9, "step": 10}}
    assert reconciled(asking(**known)).asks == ()
    again = reconciled(asking("again", **known))
    assert len(again.asks) == 1
    assert again.status.save_request.document() == {"value": "again", "requestedAt": rfc(60)}
    gone = run(status(**known))
    assert reconciled(gone).status.save_request.step == 10, "without the annotation the record must stay"


@pytest.mark.parametrize(
    "more",
    [
        {"report": None},
        {"pods": []},
        {"pods": [pod(restart=1)]},
        {"report": report(restart=1)},
        {"report": report(stage="leaving")},
        {"jobsets": [jobset(outcome="Failed")]},
        {"jobsets": []},
    ],
)
def test_only_a_trainer_of_the_current_process_group_gets_the_request(more: dict[str, Any]) -> None:
    decision = reconciled(asking(), **more)
    assert decision.asks == ()
    assert decision.status.save_request.step is None


def test_a_pod_without_a_token_is_not_asked() -> None:
    bare = pod()
    bare["spec"] = {"nodeName": "node-a"}
    assert reconciled(asking(), pods=[bare]).asks == ()


@pytest.mark.parametrize("phase", ["Succeeded", "Suspended"])
def test_the_newest_checkpoint_serves_the_request_if_no_process_trains(phase: str) -> None:
    document = asking(phase=phase)
    document["spec"]["suspend"] = phase == "Suspended"
    if phase == "Succeeded":
        condition = {
            "type": "Succeeded",
            "status": "True",
            "reason": "Succeeded",
            "message": "",
            "lastTransitionTime": rfc(50),
        }
        document["status"]["conditions"] = [condition]
    decision = reconcile(observed(document, head=head(10)), NOW)
    assert decision.status.save_request.step == 10


def test_values_of_any_kind_are_bounded_and_harmless() -> None:
    decision = reconciled(asking("x\n\x00" * 10_000))
    assert len(decision.status.save_request.value) <= 253
    assert len(decision.asks) == 1
    assert reconciled(asking("   ")).status.save_request is None


def test_a_save_request_survives_the_death_of_operator_and_process_group() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(20)
    cluster.annotate("before the demo")
    cluster.settle()
    assert [(where, step) for _, where, step in cluster.asked] == [((1, 0), 20)]
    assert cluster.status["saveRequest"]["askedStep"] == 20
    assert "step" not in cluster.status["saveRequest"]
    # The process group that accepted the request ends before it saves. The next one resumes from an older step and gets
    # the request, too.
    cluster.jobset["status"] = {"restarts": 1, "restartsCountTowardsMax": 0}
    for place in [place for place in cluster.api.objects if place.startswith(PODS)]:
        del cluster.api.objects[place]
    cluster.add_pod(pod(1, 1))
    cluster.train(12, resumed=10)
    cluster._start_operator()
    cluster.settle()
    assert [(where, step) for _, where, step in cluster.asked] == [((1, 0), 20), ((1, 1), 12)]
    cluster.head = head(13)
    cluster.settle()
    assert (cluster.status["saveRequest"]["askedStep"], cluster.status["saveRequest"]["step"]) == (12, 13)
    cluster._start_operator()
    cluster.settle()
    assert len(cluster.asked) == 2, "a served request must not be sent again, also not by a new operator"
