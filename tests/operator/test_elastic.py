"""A run trains with fewer slices while there is less room, and grows back at a checkpoint, whatever happens to the
operator meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_operator.objects.jobset import role_of
from tests.operator.builders import UID, head, pod, rfc, run
from tests.operator.simulation import JOBSETS, PODS, SimulatedCluster
from tests.operator.test_crashes import FAULTS

ELASTIC: dict[str, Any] = {
    "maxRestarts": 3,
    "elastic": {"minSlices": 1, "shrinkAfterSeconds": 300, "growAfterSeconds": 120},
}
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class Cluster(SimulatedCluster):
    """A cluster with room for `room` pods. A slice has one host here."""

    def __init__(self, document: dict[str, Any], room: int, faults: dict[int, str] | None = None) -> None:
        super().__init__(document, faults)
        self.room = room
        self.preempts = True

    @property
    def jobset(self) -> dict[str, Any] | None:
        return next((found for found in self.jobsets() if role_of(found) == "attempt"), None)

    @property
    def probe(self) -> dict[str, Any] | None:
        return next((found for found in self.jobsets() if role_of(found) == "probe"), None)

    def jobsets(self) -> list[dict[str, Any]]:
        return [thing for place, thing in self.api.objects.items() if place.startswith(JOBSETS)]

    def pods(self, jobset: str) -> dict[str, dict[str, Any]]:
        return {place: thing for place, thing in self.api.objects.items() if place.startswith(f"{PODS}/{jobset}-s-")}

    def tick(self) -> None:
        self.now += 1
        for jobset in sorted(self.jobsets(), key=role_of):  # the probe has the lower priority
            name = jobset["metadata"]["name"]
            jobset["metadata"].setdefault("creationTimestamp", rfc(self.now))
            pods = self.pods(name)
            if "deletionTimestamp" in jobset["metadata"]:
                for place in pods:
                    del self.api.objects[place]
                if not pods:
                    del self.api.objects[f"{JOBSETS}/{name}"]
            elif not jobset.get("status", {}).get("conditions"):
                self._fill(jobset, pods)

    def _fill(self, jobset: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
        labels = jobset["metadata"]["labels"]
        for index in range(jobset["spec"]["replicatedJobs"][0]["replicas"]):
            place = f"{PODS}/{jobset['metadata']['name']}-s-{index}-0"
            if place not in pods:
                made = pod(int(labels.get(names.LABEL_ATTEMPT, 0)), 0, index)
                made["metadata"] |= {"name": place.rsplit("/", 1)[1], "uid": f"{place}-{self.now}"}
                made["metadata"]["labels"] |= labels | {names.JOBSET_UID_LABEL: jobset["metadata"]["uid"]}
                del made["spec"]["nodeName"]
                made["status"] = {"phase": "Pending", "conditions": [WAITING]}
                self.api.objects[place] = made
            found = self.api.objects[place]
            if "nodeName" not in found["spec"] and role_of(jobset) == "attempt" and self.placed() >= self.room:
                self._preempt_probe()
            if "nodeName" not in found["spec"] and self.placed() < self.room:
                found["spec"]["nodeName"], found["status"] = f"node-{index}", pod()["status"]

    def placed(self) -> int:
        """Number of pods that have a node."""
        return sum("nodeName" in thing["spec"] for found, thing in self.api.objects.items() if found.startswith(PODS))

    def _preempt_probe(self) -> None:
        """The scheduler evicts a pod of the probe for a pod of higher priority; the probe's Job creates another pod."""
        if not self.preempts:
            return
        victim = next((place for place, thing in self.pods("demo-probe").items() if "nodeName" in thing["spec"]), None)
        if victim is not None:
            del self.api.objects[victim]

    def shrink_room(self, to: int) -> None:
        """Nodes are lost together with their pods; the JobSet restarts its process group."""
        self.room = to
        jobset = self.jobset
        assert jobset is not None
        restarts = jobset.get("status", {}).get("restarts", 0) + 1
        for place in self.pods(jobset["metadata"]["name"]):
            del self.api.objects[place]
        jobset["status"] = {"restarts": restarts, "restartsCountTowardsMax": 0}
        self._relabel(restarts)

    def _relabel(self, restarts: int) -> None:
        jobset = self.jobset
        assert jobset is not None
        jobset["metadata"]["labels"][names.JOBSET_RESTART] = str(restarts)  # `_fill` reads it there

    def slices(self) -> int:
        assert self.jobset is not None
        return int(self.jobset["spec"]["replicatedJobs"][0]["replicas"])

    def document(self) -> dict[str, Any]:
        """The run document of the current attempt."""
        (found,) = (thing for place, thing in self.api.objects.items() if place.startswith(CONFIG_MAPS))
        return yaml.safe_load(found["data"][names.RUN_DOCUMENT_KEY])


WAITING = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}


def condition(cluster: SimulatedCluster, kind: str) -> tuple[str, str]:
    found = next(entry for entry in cluster.status["conditions"] if entry["type"] == kind)
    return found["status"], found["reason"]


def later(cluster: Cluster, seconds: float) -> None:
    cluster.now += seconds
    cluster.settle()


def trains(cluster: Cluster, step: int, committed: int | None = None) -> None:
    cluster.train(step)
    if committed is not None:
        cluster.head = head(committed, epoch=(cluster.status["attempt"], 0))
    cluster.settle()


def smaller(**spec: Any) -> Cluster:
    """An elastic run that found room for one slice only, and trains there."""
    cluster = Cluster(run(recovery=ELASTIC, **spec), 1)
    cluster.settle()
    later(cluster, 301)
    trains(cluster, 10, 5)
    return cluster


def loses_a_slice_and_gets_it_back(cluster: Cluster) -> None:
    cluster.settle()
    trains(cluster, 50, 40)
    cluster.shrink_room(1)
    cluster.settle()
    later(cluster, 301)
    trains(cluster, 60, 50)
    later(cluster, 121)
    cluster.room = 2
    cluster.settle()
    trains(cluster, 80, 70)
    trains(cluster, 90)
    cluster.head = head(300, epoch=(cluster.status["attempt"], 0))
    cluster.end_jobset("Completed")
    cluster.settle()


def test_every_stage_of_shrinking_and_growing() -> None:
    cluster = Cluster(run(recovery=ELASTIC), 2)
    cluster.settle()
    assert cluster.slices() == 2
    trains(cluster, 50, 40)
    assert cluster.probe is None, "a run with all slices needs no probe"
    cluster.shrink_room(1)
    cluster.settle()
    assert (cluster.status["attempt"], condition(cluster, "Ready")) == (1, ("False", "Unschedulable")), (
        "it must wait before it shrinks"
    )
    later(cluster, 290)
    assert cluster.status["attempt"] == 1
    later(cluster, 20)
    assert (cluster.status["attempt"], cluster.slices()) == (2, 1)
    accelerator, trainer = cluster.document()["spec"]["accelerator"], cluster.document()["spec"]["trainer"]
    assert (accelerator["slices"], trainer["batchSize"], trainer["microbatches"]) == (1, 8, 2), (
        "the same batch must fit into the same memory of each device"
    )
    trains(cluster, 60, 50)
    assert (cluster.status["phase"], condition(cluster, "Degraded")) == ("Running", ("True", "FewerSlices"))
    assert cluster.status["topology"]["slices"] == 1
    assert (cluster.status["placement"]["slices"], cluster.status["placement"]["wantedSlices"]) == (1, 2)
    assert cluster.probe is None
    later(cluster, 121)
    assert cluster.probe is not None, "after the pause it must look for room"
    assert "roomSince" not in cluster.status["placement"]
    assert cluster.status["attempt"] == 2
    cluster.room = 2
    cluster.settle()
    assert (cluster.status["placement"]["roomSlices"], cluster.status["placement"]["roomStep"]) == (2, 50)
    assert cluster.status["attempt"] == 2, "the run must train on until its next checkpoint"
    ((_, asked, step),) = cluster.asked
    assert (asked, step) == ((2, 0), 60), "the operator must request a checkpoint"
    trains(cluster, 80, 70)
    assert (cluster.status["attempt"], cluster.slices(), cluster.probe) == (3, 2, None)
    assert [(entry["attempt"], entry["cause"]) for entry in cluster.status["history"] if "cause" in entry] == [
        (1, "preempted"),
        (1, "resized"),
        (2, "resized"),
    ]
    trains(cluster, 90)
    assert condition(cluster, "Degraded") == ("False", "NotDegraded")
    assert "reason" not in cluster.status["placement"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["crash after", *(pytest.param(fault, marks=pytest.mark.variant) for fault in FAULTS[1:])]
)
def test_a_fault_at_any_write_does_not_change_the_end_of_the_run(fault: str) -> None:
    undisturbed = Cluster(run(recovery=ELASTIC), 2)
    loses_a_slice_and_gets_it_back(undisturbed)
    for write in range(1, undisturbed.api.writes + 1):
        cluster = Cluster(run(recovery=ELASTIC), 2, {write: fault})
        loses_a_slice_and_gets_it_back(cluster)
        assert (cluster.status["phase"], cluster.status["attempt"]) == ("Succeeded", 3)
        assert cluster.status["restarts"] == {**undisturbed.status["restarts"]}
        assert [name for kind, name in cluster.api.created if kind == "JobSet" and name != "demo-probe"] == [
            "demo-1",
            "demo-2",
            "demo-3",
        ]
        assert cluster.probe is None


def test_a_run_waits_if_no_allowed_number_of_slices_fits() -> None:
    cluster = Cluster(run(recovery=ELASTIC | {"elastic": {"minSlices": 2}}), 1)
    cluster.settle()
    later(cluster, 5000)
    assert (cluster.status["attempt"], cluster.slices()) == (1, 2)
    rigid = Cluster(run(), 1)
    rigid.settle()
    later(rigid, 5000)
    assert (rigid.status["attempt"], rigid.slices(), "placement" in rigid.status) == (1, 2, False)


def test_the_probe_is_deleted_when_the_run_is_suspended_or_needs_its_room() -> None:
    cluster = smaller()
    later(cluster, 121)
    assert cluster.probe is not None
    cluster.edit(suspend=True)
    cluster.settle()
    assert (cluster.status["phase"], cluster.slices(), cluster.probe) == ("Suspending", 1, None), (
        "a run that stops needs no more room"
    )
    cluster.head = head(10, epoch=(2, 0))
    cluster.settle()
    assert (cluster.status["phase"], cluster.jobsets()) == ("Suspended", [])
    cluster.edit(suspend=False)
    cluster.settle()
    assert cluster.slices() == 2, "the earlier knowledge of the room is outdated"
    later(cluster, 301)
    trains(cluster, 20, 15)
    later(cluster, 121)
    cluster.room = 0
    for place in cluster.pods(f"demo-{cluster.status['attempt']}"):
        del cluster.api.objects[place]  # the JobSet has not noticed it yet
    cluster.settle()
    assert cluster.status["placement"]["waitingSince"]
    assert cluster.probe is None


def test_the_probe_holds_the_room_until_the_smaller_run_has_stopped() -> None:
    cluster = smaller()
    later(cluster, 121)
    cluster.room = 2
    cluster.settle()
    cluster.head = head(15, epoch=(2, 0))
    held: list[tuple[bool, bool]] = []
    while cluster.status["attempt"] == 2:
        asyncio.run(cluster.reconcile_once())
        jobset, probe = cluster.jobset, cluster.probe
        held.append((jobset is not None, probe is not None and "deletionTimestamp" not in probe["metadata"]))
        cluster.tick()
    assert (True, True) in held
    assert (True, False) not in held, "while pods of the smaller run save, no other pod may take the room"
    cluster.settle()
    assert (cluster.slices(), cluster.probe) == (2, None)


def test_room_that_is_lost_before_the_checkpoint_does_not_stop_the_run() -> None:
    cluster = smaller()
    later(cluster, 121)
    cluster.room = 2
    cluster.settle()
    assert cluster.status["placement"]["roomSlices"] == 2
    cluster.room = 1
    for place in cluster.pods("demo-probe"):
        del cluster.api.objects[place]
    cluster.settle()
    assert "roomSince" not in cluster.status["placement"]
    trains(cluster, 30, 25)
    assert (cluster.status["attempt"], cluster.slices()) == (2, 1)


def test_a_run_grows_into_a_part_of_the_wanted_room_after_a_while() -> None:
    cluster = smaller(accelerator__slices=4, trainer__batchSize=8)
    assert cluster.slices() == 1
    later(cluster, 121)
    cluster.room = 3  # two slices can share the batch equally, three cannot
    cluster.settle()
    assert "roomSince" not in cluster.status["placement"], "there may soon be room for all slices"
    later(cluster, 121)
    assert cluster.status["placement"]["roomSlices"] == 2
    trains(cluster, 20, 15)
    assert (cluster.slices(), condition(cluster, "Degraded")[0]) == (2, "True")


def test_an_edit_of_the_bounds_takes_effect_at_the_next_checkpoint() -> None:
    cluster = smaller()
    cluster.edit(recovery={"maxRestarts": 3})
    cluster.settle()
    assert (cluster.slices(), condition(cluster, "Ready")) == (1, ("True", "EditPending"))
    cluster.head = head(10, epoch=(2, 0))
    cluster.settle()
    assert (cluster.slices(), cluster.status["restarts"]["resized"]) == (2, 2), (
        "a run that is not elastic must have all its slices"
    )


def test_a_rejected_probe_is_retried_and_the_run_trains_on() -> None:
    cluster = smaller()
    cluster.api.faults = {cluster.api.writes + number: "refuse" for number in range(1, 4)}
    later(cluster, 121)
    assert cluster.status["phase"] == "Running"
    assert cluster.probe is not None, "the probe must be retried"


def test_pods_of_a_probe_are_restricted_like_those_of_the_run() -> None:
    cluster = smaller(accelerator__hostResources={"cpu": "2"})
    later(cluster, 121)
    assert cluster.probe is not None
    spec = cluster.probe["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert cluster.probe["metadata"]["ownerReferences"][0]["uid"] == UID
