"""A run is planned in a pod without accelerators before it takes any, whatever happens to the operator meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from halcyon_api import names
from halcyon_api.reading import parse_run
from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import Progress
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.record.plan import plan_hash
from halcyon_operator.decide.tell.conditions import planned
from halcyon_operator.model.planned_speed import speed_ratio
from halcyon_operator.objects.jobset import role_of
from tests.operator.builders import pod, rfc, run, settings_of
from tests.operator.simulation import JOBSETS, PODS, SimulatedCluster
from tests.operator.test_crashes import FAULTS
from tests.operator.test_suspension import ready

H100 = {"type": "h100", "topology": "1x8", "pricePerChipHour": 2.0}
PLANNER = f"{JOBSETS}/demo-plan"
FITS = {"fits": True, "memory": "40.0 GB of 80.0 GB", "stepSeconds": 0.5, "tokensPerSecond": 1000.0, "chipHours": 16.0}
TOO_LARGE = {
    "fits": False,
    "memory": "96.0 GB of 80.0 GB",
    "message": "a step does not fit: it takes 96.0 GB of 80.0 GB",
}


class Cluster(SimulatedCluster):
    """A cluster whose planning pod answers what the test sets."""

    def __init__(
        self, mode: str = "warn", answer: dict[str, Any] | str | None = None, faults: Any = None, **spec: Any
    ) -> None:
        self.answer, self.planned = answer, 0
        spec.setdefault("accelerator", H100)
        super().__init__(run(**spec), faults, settings=settings_of(planning={"mode": mode, "seconds": 600}))

    @property
    def jobset(self) -> dict[str, Any] | None:
        found = [thing for place, thing in self.api.objects.items() if place.startswith(JOBSETS)]
        return next((one for one in found if role_of(one) == "attempt"), None)

    @property
    def planner(self) -> dict[str, Any] | None:
        return self.api.objects.get(PLANNER)

    def tick(self) -> None:
        own = {place: thing for place, thing in self.api.objects.items() if role_of(thing) == "plan"}
        for place in own:
            del self.api.objects[place]
        super().tick()
        jobset, place = own.get(PLANNER), f"{PODS}/demo-plan-s-0-0"
        if jobset is None or "deletionTimestamp" in jobset["metadata"]:
            return
        if place not in own:
            self.planned += 1
            made = pod(0)
            made["metadata"] |= {"name": "demo-plan-s-0-0", "uid": f"plan-{self.now}"}
            made["metadata"]["labels"] |= jobset["metadata"]["labels"]
            made["metadata"]["labels"][names.JOBSET_UID_LABEL] = jobset["metadata"]["uid"]
            jobset["metadata"].setdefault("creationTimestamp", rfc(self.now))
            own[place] = made | {"kind": "Pod"}
        elif self.answer is not None:
            code = 80 if isinstance(self.answer, dict) and self.answer.get("fits") is False else 0
            message = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
            ended = {"exitCode": code or int(isinstance(self.answer, str)), "finishedAt": rfc(self.now)}
            state = {"terminated": ended | {"message": message, "reason": "Error"}}
            own[place]["status"] = {
                "phase": "Failed" if ended["exitCode"] else "Succeeded",
                "containerStatuses": [{"name": "trainer", "state": state}],
            }
            jobset["status"] = {"conditions": [_condition("Failed" if ended["exitCode"] else "Completed", self.now)]}
        self.api.objects |= own

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(one for one in self.status["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]


def _condition(kind: str, now: float) -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": "r", "message": "m", "lastTransitionTime": rfc(now)}


def test_a_run_waits_for_its_plan_and_takes_hardware_only_then() -> None:
    cluster = Cluster()
    cluster.settle()
    assert (ready(cluster)[:2], cluster.jobset) == (("Pending", "Planning"), None)
    cluster.answer = FITS
    cluster.settle()
    assert (cluster.jobset is not None, cluster.planner) == (True, None)
    plan = cluster.status["plan"]
    assert plan | {"cost": 32.0, "chipHours": 16.0, "fits": True} == plan
    assert cluster.condition("Planned")[:2] == ("True", "Planned")


def test_a_run_that_cannot_fit_takes_no_hardware_and_a_mended_one_begins() -> None:
    cluster = Cluster("require", TOO_LARGE)
    cluster.settle()
    assert (ready(cluster)[1], cluster.jobset, cluster.planner) == ("DoesNotFit", None, None)
    assert ready(cluster)[2].startswith("spec.plan: a step does not fit: it takes 96.0 GB of 80.0 GB; choose more ")
    assert [kind for kind, name in cluster.api.created if name == "demo-1"] == []
    cluster.answer = FITS
    cluster.edit(trainer={"steps": 300, "batchSize": 8, "sequenceLength": 32, "remat": "full"})
    cluster.settle()
    assert (cluster.status["attempt"], cluster.planned, cluster.condition("Planned")[0]) == (1, 2, "True")


def test_a_required_plan_without_the_memory_of_the_device_holds() -> None:
    cluster = Cluster("require", {name: value for name, value in FITS.items() if name not in ("fits", "memory")})
    cluster.settle()
    assert (cluster.status["attempt"], cluster.condition("Planned")[:2]) == (1, ("True", "Planned"))


def test_by_default_a_run_that_does_not_fit_says_so_and_begins() -> None:
    cluster = Cluster(answer=TOO_LARGE)
    cluster.settle()
    assert cluster.jobset is not None
    assert cluster.condition("Planned")[:2] == ("False", "DoesNotFit")


def test_a_plan_holds_for_later_attempts_and_edits_that_do_not_change_it() -> None:
    cluster = Cluster(answer=FITS)
    cluster.settle()
    cluster.end_jobset("Failed", "FailJobSetFailurePolicyAction")
    cluster.edit(telemetry={"statusIntervalSeconds": 30}, suspend=True)
    cluster.settle()
    cluster.edit(suspend=False)
    cluster.settle()
    assert (cluster.status["attempt"] > 1, cluster.planned) == (True, 1)


@pytest.mark.parametrize("mode", ["warn", "require"])
@pytest.mark.parametrize(
    ("answer", "seconds", "said"),
    [
        (
            "Traceback: no memory",
            0,
            "planning failed: pod demo-plan-s-0-0 ended with exit code 1: Error: Traceback: no memory",
        ),
        (None, 700, "planning did not end in 600 s"),
        ('{"fits": "perhaps"}', 0, "planning failed: "),
    ],
    ids=["a failed pod", "no answer in time", "no plan"],
)
def test_a_plan_that_fails_is_told(answer: str | None, seconds: float, said: str, mode: str) -> None:
    cluster = Cluster(mode, answer)
    cluster.settle()
    cluster.now += seconds
    cluster.settle()
    assert cluster.condition("Planned")[:2] == ("False", "PlanFailed")
    assert cluster.condition("Planned")[2].startswith(said)
    assert (cluster.jobset is None, cluster.planner) == (mode == "require", None)
    if mode == "require":
        assert ready(cluster)[1] == "PlanFailed"
        cluster.edit(plan="warn")
        cluster.settle()
        assert cluster.jobset is not None, "the author may begin without a plan"


@pytest.mark.parametrize(
    ("mode", "spec"),
    [
        ("off", {}),
        ("warn", {"plan": "off"}),
        ("require", {"accelerator": {"type": "cpu", "topology": "1x1"}}),
    ],
    ids=["by the owner", "by the author", "a processor"],
)
def test_nothing_is_planned_where_nothing_is_saved(mode: str, spec: dict[str, Any]) -> None:
    cluster = Cluster(mode, **spec)
    cluster.settle()
    assert (cluster.jobset is not None, cluster.planned) == (True, 0)
    assert cluster.condition("Planned")[:2] == ("False", "NotPlanned")


def test_another_spec_is_planned_anew() -> None:
    cluster = Cluster("require")
    cluster.settle()
    first = cluster.planner
    cluster.answer = None
    cluster.edit(trainer={"steps": 300, "batchSize": 16, "sequenceLength": 32})
    cluster.settle()
    assert first is not None
    assert cluster.planner is not None
    assert cluster.planner["metadata"]["labels"][names.LABEL_PLAN] != first["metadata"]["labels"][names.LABEL_PLAN]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", range(1, 9))
def test_no_crash_of_the_operator_changes_the_result(write: int, fault: str) -> None:
    cluster = Cluster("require", FITS, faults={write: fault})
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["plan"]["fits"], cluster.planner) == (1, True, None)
    assert cluster.jobset is not None


def test_the_planning_pod_takes_no_accelerator_and_gets_the_document() -> None:
    cluster = Cluster()
    cluster.settle()
    assert cluster.planner is not None
    job = cluster.planner["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod_spec, (container,) = job["template"]["spec"], job["template"]["spec"]["containers"]
    assert (job["activeDeadlineSeconds"], cluster.planner["spec"]["suspend"]) == (600, False)
    disrupted, ended = job["podFailurePolicy"]["rules"]
    assert (disrupted["action"], job["backoffLimit"] > 100) == ("Ignore", True), "a lost pod is replaced"
    assert ended["onExitCodes"] == {"operator": "NotIn", "values": [0]}, "only the program's own end fails a plan"
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert (pod_spec["automountServiceAccountToken"], "nodeSelector" in pod_spec) == (False, False)
    document = yaml.safe_load(job["template"]["metadata"]["annotations"][names.ANNOTATION_DOCUMENT])
    spec = parse_run(document).spec
    assert spec.accelerator.type == "h100"
    assert plan_hash(spec) == cluster.planner["metadata"]["labels"][names.LABEL_PLAN], "defaults change no plan"


def test_a_price_changes_the_cost_and_not_the_plan() -> None:
    assert (
        len({plan_hash(parse_run(run(accelerator=H100 | {"pricePerChipHour": price})).spec) for price in (1, 2)}) == 1
    )


@pytest.mark.parametrize(
    ("step", "speed", "seconds", "found"),
    [
        (60, 850.0, {}, ("True", "Planned", "")),
        (49, 100.0, {}, ("True", "Planned", "")),
        (60, 620.0, {"productiveStep": 80.0, "dataWait": 20.0}, ("False", "SlowerThanPlanned", "waits for data 20%")),
        (60, 620.0, {"productiveStep": 99.0, "dataWait": 1.0}, ("False", "SlowerThanPlanned", "bound by memory")),
    ],
    ids=["near the plan", "before it is settled", "by data", "in the steps"],
)
def test_a_run_that_is_slower_than_planned_names_the_part(
    step: int, speed: float, seconds: dict[str, float], found: tuple[str, str, str]
) -> None:
    status = TrainingRunStatus(
        plan=PlanStatus(fits=True, tokens_per_second=1000.0, step_seconds=0.5, bound="memory"),
        progress=Progress(step=step, steps=100, tokens_per_second=speed),
    )
    goodput = {"ratio": 0.5, "wallSeconds": 1, "productiveSeconds": 1, "current": {"seconds": seconds}}
    status = TrainingRunStatus.model_validate(status.document() | {"goodput": goodput}, by_alias=True, by_name=False)
    holds, reason, message = planned(status)
    assert (str(holds), reason) == found[:2]
    assert found[2] in message
    assert speed_ratio(status) == (None if step < 50 else pytest.approx(speed / 1000))
