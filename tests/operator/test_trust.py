"""The operator does not trust labels alone: an object that only looks like a run's own changes nothing of the run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from halcyon_api import names
from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import ended, head, jobset, pod, run, termination
from tests.operator.simulation import JOBSETS, KEY, PODS, RUN, SimulatedCluster


def training() -> SimulatedCluster:
    cluster = SimulatedCluster(run())
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    return cluster


def add(cluster: SimulatedCluster, path: str, thing: dict[str, Any], kind: str) -> None:
    cluster.api.objects[f"{path}/{thing['metadata']['name']}"] = thing | {"kind": kind}


def foreign_pod(cluster: SimulatedCluster, **change: Any) -> dict[str, Any]:
    """A foreign pod with the labels of the run's current process group."""
    assert cluster.jobset is not None
    made = pod(cluster.status["attempt"], 0, 0, 0)
    made["metadata"]["labels"][names.JOBSET_UID_LABEL] = cluster.jobset["metadata"]["uid"]
    made["metadata"] |= {"name": "aaa", "uid": "foreign", "ownerReferences": []} | change
    return made


def end(cluster: SimulatedCluster) -> None:
    cluster.head = head(300, epoch=(cluster.status["attempt"], 0))
    cluster.end_jobset("Completed")
    cluster.settle()
    assert cluster.status["phase"] == "Succeeded"


def test_a_changed_label_of_the_runs_own_jobset_changes_nothing() -> None:
    cluster = training()
    before = cluster.status
    assert cluster.jobset is not None
    cluster.jobset["metadata"]["labels"][names.LABEL_ATTEMPT] = "9"
    cluster.settle()
    assert (cluster.status["phase"], cluster.status["history"]) == ("Running", before["history"])


@pytest.mark.parametrize(("name", "attempt"), [("alien", 2), ("demo-99998", 2), ("demo-2", 3)])
def test_a_foreign_jobset_with_a_high_attempt_uses_up_no_number(name: str, attempt: int) -> None:
    cluster = training()
    alien = jobset(99998, uid="alien")
    alien["metadata"] |= {"name": name, "ownerReferences": []}
    cluster.head = head(50, epoch=(1, 0))
    add(cluster, JOBSETS, alien, "JobSet")
    cluster.edit(image="other:2")
    for _ in range(20):
        asyncio.run(cluster.reconcile_once())
        alien = cluster.api.objects.pop(
            f"{JOBSETS}/{name}"
        )  # the simulated controllers must act on the run's own JobSet
        cluster.tick()
        cluster.api.objects[f"{JOBSETS}/{name}"] = alien
    assert cluster.status["attempt"] == attempt
    assert "deletionTimestamp" not in alien["metadata"], "it must not be deleted"


THEIRS = [{"kind": "Job", "name": "theirs", "uid": "theirs", "controller": True}]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"name": "demo-0", "ownerReferences": []},
        {"ownerReferences": THEIRS},
        {"name": "demo-1-aaa", "ownerReferences": THEIRS},
    ],
    ids=["no controller", "no controller, a fitting name", "a foreign Job", "a foreign Job, another JobSet"],
)
def test_a_foreign_pod_with_the_runs_labels_does_not_belong_to_the_run(change: dict[str, Any]) -> None:
    """Otherwise it would be read as the run's process 0 (its name sorts first), end the run by its exit code, or delay
    the next attempt.
    """
    cluster = training()
    alien = foreign_pod(cluster, **change)
    if change.get("name") == "demo-1-aaa":
        alien["metadata"]["labels"][names.JOBSET_UID_LABEL] = "another"
    alien["status"] |= ended(
        80, cluster.now, termination("badConfiguration", 80, attempt=1, message="ended by a stranger")
    )
    add(cluster, PODS, alien, "Pod")
    observed = asyncio.run(cluster.observer.observe(*KEY, None))
    assert observed is not None
    assert len(observed.pods) == 2, "only its own pods must be observed"
    assert "foreign" not in {pod.uid for pod in observed.pods} | {ending.uid for ending in observed.endings}
    assert "stranger" not in str(reconcile(observed, cluster.clock()))


def test_a_foreign_jobset_with_the_label_of_a_probe_is_no_probe() -> None:
    cluster = training()
    alien = jobset(0, uid="alien")
    alien["metadata"] |= {"name": "demo-probe", "ownerReferences": []}
    alien["metadata"]["labels"][names.LABEL_ROLE] = names.ROLE_PROBE
    add(cluster, JOBSETS, alien, "JobSet")
    observed = asyncio.run(cluster.observer.observe(*KEY, None))
    assert observed is not None
    assert observed.probe is None


def test_the_last_report_of_a_process_is_known_after_its_jobset_and_status_are_deleted() -> None:
    cluster = training()
    last = pod(1, 0, 1, **ended(42, cluster.now, termination("preempted", 42, attempt=1, step=70, checkpointStep=70)))
    cluster.add_pod(last)
    observed = asyncio.run(cluster.observer.observe(*KEY, None))
    assert observed is not None
    del cluster.api.objects[RUN]["status"]
    for place in [place for place in cluster.api.objects if place.startswith((JOBSETS, PODS))]:
        del cluster.api.objects[place]
    observed = asyncio.run(cluster.observer.observe(*KEY, None))
    assert observed is not None
    assert [ending.report.checkpoint_step for ending in observed.endings if ending.report is not None] == [70]
