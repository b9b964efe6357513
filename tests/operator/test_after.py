"""A run with `after` starts when the other run has succeeded, and reports meanwhile what it waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import kopf
import pytest
import yaml

from halcyon_operator.decide.next.next_attempt import unmet_prerequisite
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.views import Prerequisite
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.runs import LONGEST_CHAIN
from halcyon_operator.observe.watch_cache import WatchCache
from halcyon_operator.run.app import handlers
from halcyon_operator.run.health import WriteWatch
from halcyon_operator.run.work_queue import WorkQueue
from tests.operator.builders import at, observed, run
from tests.operator.simulation import RUN, SimulatedCluster
from tests.operator.test_crashes import finish
from tests.operator.test_defaults import TEAM, put, ready, short

AFTER = {"after": {"run": "tokens"}}


def other(
    cluster: SimulatedCluster, phase: str | None, message: str = "", *, name: str = "tokens", **spec: Any
) -> None:
    """Set the phase of the other run; None: the operator has not seen it yet."""
    conditions = [
        {
            "type": "Ready",
            "status": "False",
            "reason": "X",
            "message": message,
            "lastTransitionTime": "2026-11-20T12:00:00Z",
        }
    ]
    attempt = 0 if phase in (None, "Pending") else 1
    status = {"phase": phase, "attempt": attempt, "conditions": conditions} if phase is not None else None
    cluster.api.objects[RUN.replace("/demo", f"/{name}")] = run(status, name=name, **spec)


def condition(cluster: SimulatedCluster, kind: str) -> tuple[str, str]:
    found = next(entry for entry in cluster.status["conditions"] if entry["type"] == kind)
    return found["status"], found["reason"]


def test_a_run_starts_only_after_the_other_run_has_succeeded() -> None:
    cluster = SimulatedCluster(run(**AFTER))
    for phase, state in (
        (None, "Pending"),
        ("Pending", "Pending: no node"),
        ("Running", "Running: no node"),
        ("Suspended", "Suspended: no node"),
    ):
        other(cluster, phase, "no node")
        cluster.settle()
        assert (cluster.status["phase"], cluster.status["attempt"], cluster.jobset) == ("Pending", 0, None)
        assert ready(cluster) == f"waits for run tokens to succeed, which is {state}"
        assert (condition(cluster, "Reconciling"), condition(cluster, "Stalled")[0]) == (("True", "AwaitsRun"), "False")
    other(cluster, "Succeeded")
    cluster.settle()
    assert cluster.status["attempt"] == 1
    (document,) = (thing["data"]["run.yaml"] for place, thing in cluster.api.objects.items() if "/configmaps/" in place)
    assert "after" not in yaml.safe_load(document)["spec"], "a trainer does not need it"
    # After the start, the fate of the other run does not matter.
    other(cluster, "Failed")
    cluster.train(50)
    cluster.settle()
    del cluster.api.objects[RUN.replace("/demo", "/tokens")]
    cluster.delete_jobset()
    cluster.settle()
    assert cluster.status["attempt"] == 2
    finish(cluster)


def test_a_missing_run_is_waited_for_and_reported_in_one_sentence() -> None:
    cluster = SimulatedCluster(run(**AFTER))
    cluster.settle()
    assert ready(cluster) == (
        "spec.after.run: waits for run tokens, and there is none of that name in namespace default; create it, correct "
        "the name, or leave `after` out if that run has succeeded and was deleted"
    )
    assert (cluster.status["phase"], condition(cluster, "Stalled")[0]) == ("Pending", "False"), (
        "one file may hold both runs, in any order"
    )
    other(cluster, "Succeeded")
    cluster.settle()
    assert cluster.status["attempt"] == 1


def test_a_failure_of_the_other_run_is_reported_and_fixed_in_that_run() -> None:
    cluster = SimulatedCluster(run(**AFTER))
    other(cluster, "Failed", "spec.data.sources: no file")
    cluster.settle()
    assert (cluster.status["phase"], condition(cluster, "Stalled")) == ("Failed", ("True", "AwaitedRunFailed"))
    assert ready(cluster) == (
        "spec.after.run: run tokens, for which this one waits, has failed: spec.data.sources: no file; fix that run"
    )
    other(cluster, "Succeeded")
    cluster.settle()
    assert (cluster.status["attempt"], condition(cluster, "Stalled")[0]) == (1, "False")


@pytest.mark.parametrize(
    ("links", "sentence"),
    [
        ({"tokens": "demo"}, "this run waits for tokens, tokens for this run"),
        ({"tokens": "clean", "clean": "demo"}, "this run waits for tokens, tokens for clean, clean for this run"),
        ({"tokens": "clean", "clean": "tokens"}, "this run waits for tokens, tokens for clean, clean for tokens"),
    ],
)
def test_a_cycle_of_waiting_runs_is_reported_and_broken_by_an_edit(links: dict[str, str], sentence: str) -> None:
    cluster = SimulatedCluster(run(**AFTER))
    for name, after in links.items():
        other(cluster, "Pending", name=name, after={"run": after})
    cluster.settle()
    assert condition(cluster, "Stalled") == ("True", "AwaitedRunCycle")
    assert ready(cluster) == f"spec.after.run: {sentence}: none of them can begin; leave `after` out of one of them"
    other(cluster, "Running", after={"run": "demo"})
    cluster.settle()
    assert condition(cluster, "Stalled")[0] == "False", "a run that has started does not wait"
    cluster.edit(after=None)
    cluster.settle()
    assert cluster.status["attempt"] == 1


def test_an_endless_chain_of_runs_is_followed_up_to_a_limit() -> None:
    cluster = SimulatedCluster(run(**AFTER))
    chain = ["tokens", *(f"link-{number}" for number in range(3 * LONGEST_CHAIN))]
    for name, after in zip(chain, [*chain[1:], "demo"], strict=True):
        other(cluster, "Pending", name=name, after={"run": after})
    cluster.settle()
    assert (cluster.status["phase"], condition(cluster, "Stalled")[0]) == ("Pending", "False")


def test_a_suspended_run_waits_for_the_other_run_only_after_it_is_resumed() -> None:
    cluster = SimulatedCluster(run(**AFTER, suspend=True))
    cluster.settle()
    assert cluster.status["phase"] == "Suspended"
    cluster.edit(suspend=False)
    cluster.settle()
    assert condition(cluster, "Reconciling") == ("True", "AwaitsRun")


def test_a_short_run_waits_with_its_defaults() -> None:
    cluster = SimulatedCluster(short(**AFTER))
    put(cluster, **TEAM)
    other(cluster, "Running")
    cluster.settle()
    assert (cluster.status["phase"], "defaults" in cluster.status) == ("Pending", False), (
        "the defaults are read when it starts"
    )
    put(cluster, **(TEAM | {"image": "later.example/trainer:2"}))
    other(cluster, "Succeeded")
    cluster.settle()
    assert cluster.status["defaults"]["values"]["image"] == '"later.example/trainer:2"'


@pytest.mark.parametrize("document", [run(**AFTER), run(**{"from": {"run": "base"}}), run(trainer__steps=-1)])
def test_many_waiting_runs_are_reconciled_less_often(document: dict[str, Any]) -> None:
    prerequisites = (Prerequisite("tokens", "Running"),) if "after" in document["spec"] else ()
    pauses = [
        reconcile(observed(document, prerequisites=prerequisites, pace_seconds=pace), at(0)).requeue_after
        for pace in (0.0, 40.0)
    ]
    assert pauses == [20.0, 40.0]


def test_a_run_without_unmet_prerequisites_does_not_wait() -> None:
    assert unmet_prerequisite("demo", "team", ()) is None
    assert unmet_prerequisite("demo", "team", (Prerequisite("tokens", "Succeeded"),)) is None


def test_the_end_of_a_run_triggers_the_runs_that_wait_for_it() -> None:
    asyncio.run(_the_end_triggers_waiting_runs())


async def _the_end_triggers_waiting_runs() -> None:
    queue: WorkQueue[tuple[str, str]] = WorkQueue(lambda: 0.0)
    store, echo = WatchCache(), WriteWatch(lambda: 0.0)
    registry = handlers(queue, PodEndings(), echo, store)
    (on_run, *_) = registry._watching._handlers

    async def see(document: dict[str, Any], version: int) -> None:
        document["metadata"]["resourceVersion"] = str(version)
        event: Any = {"type": "MODIFIED", "object": document}
        await on_run.fn(event=kopf.RawEvent(event))  # type: ignore[call-arg, misc]

    await see(short(**AFTER), 1)
    await see(run({"attempt": 1}, name="begun", **AFTER), 2)
    await see(run({"attempt": 1, "phase": "Running"}, name="tokens"), 3)
    while len(queue):
        queue.done(await queue.get())
    await see(run({"attempt": 1, "phase": "Succeeded"}, name="tokens"), 4)
    assert {await queue.get(), await queue.get()} == {("default", "tokens"), ("default", "demo")}
    assert not len(queue)
    tokens = ("default", "tokens")
    assert store.waiting_for(tokens) == (("default", "demo"),)
    await see(short(after={"run": "others"}), 5)
    assert (store.waiting_for(tokens), store.waiting_for(("default", "others"))) == ((), (("default", "demo"),))
    store.saw_run(short(**AFTER) | {"metadata": short()["metadata"] | {"resourceVersion": "6"}}, deleted=True)
    assert (store.waiting_for(tokens), store.waiting_for(("default", "others"))) == ((), ())
