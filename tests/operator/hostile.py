"""Hypothesis strategies for a cluster's content: correct objects, the same with random damage, and objects that only
look like a run's own."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from hypothesis import strategies as st

from halcyon_api import names
from halcyon_api.status.plan import PlanStatus
from halcyon_operator.model.endings import merge_endings
from halcyon_operator.model.views import HeadUnreachable, Observed, PlannerView, PodWarning, ProbeView
from halcyon_operator.model.workload import NoKueue, WorkloadReading, WorkloadUnread
from halcyon_operator.objects.kueue import LABEL_QUEUE
from halcyon_operator.observe.defaults import FoundDefaults, root_of_run
from halcyon_operator.observe.jobsets import parse_jobset, parse_object
from halcyon_operator.observe.node_notices import notices_of
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.runs import parse_prerequisite, parse_run_view
from halcyon_operator.observe.trainers import parse_report
from halcyon_operator.observe.workloads import newest
from tests.operator.builders import (
    SETTINGS,
    UID,
    at,
    changed,
    defaults,
    deleted,
    disrupted,
    ended,
    head,
    jobset,
    pod,
    report,
    rfc,
    run,
    settings_of,
    termination,
)

OTHER_SETTINGS = settings_of(
    clusterDomain="else.where",
    probes={"priorityClass": {"name": "low"}},
    gpuDirect={"allowed": True},
    kueue={"enabled": True},
    planning={"mode": "require"},
)

LONG = 10_000
"""Length in characters of the texts that are too long."""

TEXTS = [
    "True",
    "Failed",
    "9" * 30,
    "-1",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    rfc(5),
    "\x00",
    "\ud800",
    "../../kube-system",
]
LONG_TEXTS = ["x" * LONG, "9" * LONG, "🦊" * LONG, "\n" * LONG, '{"a":' * (LONG // 5), "a," * (LONG // 2)]

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(TEXTS)
    | st.sampled_from(LONG_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value."""

STATUS: dict[str, Any] = {
    "phase": "Running",
    "attempt": 1,
    "jobSetUid": "jobset-1",
    "jobSetName": "demo-1",
    "startedAt": rfc(0),
    "jobSetRestarts": 1,
    "restarts": {"total": 1, "preempted": 1},
    "history": [{"attempt": 1, "restart": 1, "startedAt": rfc(0), "fromStep": 0, "firstStepAt": rfc(5)}],
    "progress": {"step": 40, "steps": 300},
    "conditions": [
        {
            "type": "Stalled",
            "status": "True",
            "reason": "RunChanged",
            "lastTransitionTime": rfc(1),
            "observedGeneration": 1,
        }
    ],
    "placement": {
        "slices": 2,
        "wantedSlices": 4,
        "waitingSince": rfc(0),
        "roomSince": rfc(0),
        "roomSlices": 4,
        "roomStep": 20,
        "avoided": [{"node": "node-a", "since": rfc(0), "blames": 2, "attempt": 1}],
        "blames": [{"node": "node-a", "time": rfc(3), "attempt": 1, "restart": 0}],
    },
    "checkpoint": {"step": 30, "attempt": 1, "path": "steps/30/", "time": rfc(9)},
    "goodput": {"ratio": 0.5, "wallSeconds": 5, "productiveSeconds": 2, "carried": {}},
}
"""A status with a value in every field that decisions read."""

_SAVE = {"value": "now", "requestedAt": rfc(1), "askedStep": 35, "step": 40}
LATER_STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "spent": {"chipHours": 1.5, "money": 3.0, "share": 0.5},
    "plan": {"hash": "0123456789abcdef", "fits": True, "memory": "1.0 GB of 16.0 GB", "stepSeconds": 0.5}
    | {"tokensPerSecond": 9.0, "mfu": 0.4, "bound": "memory", "chipHours": 2.0, "cost": 4.0, "message": "a step"},
    "attemptSpecHash": "1-other",
    "defaults": {
        "name": "default",
        "request": "",
        "sources": [{"namespace": "default", "name": "default", "generation": 1}],
    }
    | {
        "values": {
            "image": '"x:1"',
            "scheduling.nodeSelector": '{"a": "b"}',
            "checkpoint.rootPrefix": '"s3://bucket/all"',
        }
    },
    "inForce": {"trainer.steps": "300", "telemetry.port": "9400"},
    "edit": {"since": rfc(1), "fields": ["checkpoint.keep"], "save": _SAVE},
    "jobSetRestartsCounted": 1,
    "rootAttempt": 1,
    "failuresWithoutCheckpoint": 1,
    "saveRequest": _SAVE,
    "restart": {"value": "now", "requestedAt": rfc(1), "attempt": 1, "outcome": "waiting"},
    "maintenance": {
        "notices": [{"node": "node-a", "notice": "scheduled", "at": rfc(90), "seenAt": rfc(2)}],
        "save": _SAVE,
    },
    "topology": {"slices": 2, "hosts": 2, "devices": 2, "mesh": {"replica": 2, "data": 1, "fsdp": 1, "tensor": 1}},
    "queue": {"name": "research", "waitingSince": rfc(2)}
    | {"eviction": {"attempt": 1, "restart": 1, "reason": "Preempted", "message": "for another", "time": rfc(2)}},
    "finishedAt": rfc(99),
}
"""The fields that `STATUS` does not set: together they have every field of a status."""

EVALUATED: dict[str, Any] = {
    "run": "base",
    "step": 40,
    "path": "steps/000000000040.000001.n/",
    "sources": [{"source": "python", "loss": 2.5, "bitsPerByte": 0.9, "tokens": 4096, "sequences": 8}],
}
PROGRESS: dict[str, Any] = {
    "step": 10,
    "steps": 300,
    "tokens": 2560,
    "loss": 2.5,
    "tokensPerSecond": 99.5,
    "mfu": 0.4,
} | {
    "etaSeconds": 7.0,
    "evaluationLoss": 2.6,
    "bitsPerByte": 0.9,
    "evaluated": EVALUATED,
    "saveIntervalSeconds": 60.0,
    "exportedStep": 10,
    "loadBalanceLoss": 1.1,
    "zLoss": 20.5,
    "routerZLoss": 0.2,
    "preferenceAccuracy": 0.5,
    "rewardMargin": 0.1,
    "reward": 0.5,
    "tasks": {"gsm8k": 0.25},
    "expertLoadMax": 3.5,
    "bestStep": 10,
    "bestEvaluation": 2.6,
    "stoppedEarly": False,
    "attention": "blockwise, reference",
    "determinism": "bitwise",
    "plan": "replica 2 x fsdp 4, 4 x 2 sequences of 1024 on a device, remat dots, 3.5 GB of 16.0 GB",
}
"""Every field of a trainer's progress."""

REPORTS = [
    report(),
    report(1, 1, 40),
    report(1, 2, step=7),
    report(checkpoint=None, first=None),
    report(1, 1, progress=PROGRESS, saveRequests=[]),
    report(
        1,
        1,
        inPlace=9,
        endsInPlace=[
            {"number": 7, "process": 0, "at": rfc(9), "exitCode": 137},
            {"number": 8, "process": 1, "at": rfc(9), "podLost": True},
            {
                "number": 9,
                "process": 10**9,
                "at": rfc(9),
                "exitCode": 42,
                "report": json.loads(termination("failed", 1)),
            },
        ],
    ),
]

WORKLOAD: dict[str, Any] = {
    "metadata": {"name": "jobset-demo-1-abcde", "namespace": "default", "creationTimestamp": rfc(0), "labels": {}},
    "spec": {"active": True, "queueName": "research"},
    "status": {
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": "Preempted",
                "message": "for another",
                "lastTransitionTime": rfc(3),
            }
            for kind, status in (
                ("QuotaReserved", "False"),
                ("Evicted", "True"),
                ("Admitted", "False"),
                ("Finished", "False"),
            )
        ],
        "admission": {"clusterQueue": "training"},
        "admissionChecks": [{"name": "dws", "state": "Pending", "message": "waits"}],
        "requeueState": {"count": 1, "requeueAt": rfc(60)},
    },
}

NODE: dict[str, Any] = {
    "metadata": {
        "name": "node-a",
        "labels": {
            "cloud.google.com/active-node-maintenance": "ONGOING",
            "cloud.google.com/scheduled-maintenance-time": "1763640000",
        },
    },
    "spec": {"unschedulable": True, "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
}

NEXT_VERSION: list[dict[str, Any]] = [
    {"apiVersion": "halcyon.dev/v1beta1"},
    {"spec.federation": {"clusters": ["a", "b"]}},
    {"spec.accelerator.type": "v9"},
    {"spec.trainer": {"schedule": {"steps": 300}}},
    {"status.phase": "Migrating"},
    {"status.attempt": {"number": 1, "epoch": 2}},
    {"status.conditions": [{"type": "Federated", "status": "Maybe"}]},
]
"""Changes of a newer CRD version, which an older operator may meet."""


def spoil(document: Any, data: st.DataObject, chance: int = 8) -> Any:
    """The document with random values in some places, and without some fields."""
    die = data.draw(st.integers(min_value=0, max_value=chance))
    if die == 0:
        return data.draw(JUNK)
    if isinstance(document, dict):
        kept = {
            key: spoil(value, data, chance * 2)
            for key, value in document.items()
            if data.draw(st.integers(0, 4 * chance)) > 0
        }
        return kept | (data.draw(st.dictionaries(st.text(max_size=6), JUNK, max_size=2)) if die == 1 else {})
    if isinstance(document, list):
        return [spoil(value, data, chance * 2) for value in document]
    return document


def perhaps(document: Any, data: st.DataObject) -> Any:
    """The document as it is, or damaged.

    If every part were damaged, an observation would seldom be decided to the end.
    """
    return spoil(document, data) if data.draw(st.integers(0, 3)) == 0 else document


def workloads(data: st.DataObject) -> WorkloadReading | None:
    """Kueue's Workload of a JobSet, or one of the cases without a Workload."""
    found = newest((perhaps(WORKLOAD, data),))
    return data.draw(st.sampled_from([None, NoKueue(), WorkloadUnread("x" * 2_000), newest(()), found, found, found]))


def defaults_read(data: st.DataObject) -> FoundDefaults | None:
    """The defaults that were found for a run."""
    found = [
        perhaps(
            defaults(image="x:1", scheduling__nodeSelector={"a": "b"}, checkpoint__rootPrefix="s3://bucket/all"), data
        )
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    name = data.draw(st.sampled_from(["default", "ours", ""]))
    return data.draw(st.sampled_from([None, FoundDefaults(name, ("default", "halcyon"), tuple(found), bool(found))]))


def observations(data: st.DataObject, document: object, **seen: Any) -> Observed:
    """Any observation: the given fields, all others drawn.

    Raises:
        AssertionError: `Observed` has a field that is not drawn here.
    """
    other = perhaps(run(STATUS | LATER_STATUS, name="base", after={"run": "demo"}), data)
    pods = [perhaps(one, data) for one in data.draw(st.lists(st.sampled_from(PODS), max_size=2))]
    gone = [view.ending for view in map(parse_pod, PODS) if view.ending is not None]
    reported = data.draw(st.sampled_from(REPORTS))
    reading = parse_report(
        json.dumps(perhaps(reported.document(), data)).encode(), "demo", (reported.attempt, reported.restart)
    )
    some = data.draw(st.booleans())
    drawn: dict[str, Any] = {
        "run": parse_run_view(document, defaults_read(data)),
        "settings": data.draw(st.sampled_from([SETTINGS, OTHER_SETTINGS])),
        "jobsets": (),
        "pods": tuple(map(parse_pod, pods)),
        "earlier_pods": tuple(map(parse_pod, data.draw(st.sampled_from([[], pods])))),
        "probe": None,
        "guards": data.draw(st.sampled_from(GUARDS)),
        "planner": data.draw(st.sampled_from(PLANNERS)),
        "endings": merge_endings(data.draw(st.sampled_from([[], gone]))),
        "replaced": merge_endings(data.draw(st.sampled_from([[], gone]))),
        "head": data.draw(st.sampled_from([*HEADS, HeadUnreachable("x" * 2_000)])),
        "report": reading.report,
        "report_problem": reading.problem,
        "config_map": None,
        "config_map_lost": data.draw(st.booleans()),
        "origin_root": root_of_run(other) if some else None,
        "origin": parse_prerequisite("base", other) if some else None,
        "prerequisites": tuple(
            parse_prerequisite(name, other)
            for name in data.draw(st.lists(st.sampled_from(["base", "demo", "x"]), max_size=3))
        ),
        "deleting_seconds": {view.uid: data.draw(st.sampled_from([0.0, 10_000.0])) for view in map(parse_pod, pods)},
        "pod_warning": data.draw(
            st.sampled_from(
                [
                    None,
                    PodWarning("Job", "demo-1-s-0", "FailedCreate", "x" * 241),
                    *(PodWarning("Pod", view.name, "FailedMount", "x" * 241) for view in map(parse_pod, pods)),
                ]
            )
        ),
        "notices": notices_of(perhaps(NODE, data)) if data.draw(st.booleans()) else (),
        "workload": workloads(data),
        "fresh_token": "a-token",
        "create_refusal": data.draw(st.sampled_from(["", "", "x" * 10_000])),
        "progress_written_at": data.draw(st.sampled_from([None, at(0), at(10**7)])),
        "pace_seconds": data.draw(st.sampled_from([0.0, 30.0])),
        "now": at(60),  # reconcile sets it
    }
    assert drawn.keys() == {field.name for field in fields(Observed)}, "every field of Observed must be drawn"
    return Observed(**(drawn | seen))


@st.composite
def run_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A run with a status, elastic or not, of this version or of a newer one."""
    specs: list[dict[str, Any]] = [
        {},
        {"scheduling": {"queue": {"name": "research"}}},
        {"after": {"run": "base"}},
        {"from": {"run": "base"}},
        {"defaults": "ours"},
        {"image": "other:2"},
        {"suspend": True},
        {"recovery": {"elastic": {"minSlices": 1}}},
        {"ttlSecondsAfterFinished": 1},
        {"budget": {"chipHours": 1.0, "until": "2026-11-20T12:00:10Z"}},
    ]
    free = STATUS | {"conditions": []}
    later = LATER_STATUS | {"attemptSpecHash": None}
    statuses: list[Any] = [
        None,
        STATUS,
        free,
        free | {"jobSetUid": None},
        free | {"attemptSpecHash": "1-other"},
        {"attempt": 1},
    ]
    statuses += [free | later, free | LATER_STATUS, free | {"queue": LATER_STATUS["queue"]}]
    document = run(draw(st.sampled_from(statuses)), **draw(st.sampled_from(specs)))
    if draw(st.booleans()):
        document["metadata"]["annotations"] = {names.ANNOTATION_RESTART: "now"}
    to_come = draw(st.sampled_from(NEXT_VERSION)) if draw(st.integers(0, 4)) == 0 else {}
    return changed(document, _applicable(document, to_come))


def _applicable(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return change if "status" in document or not any(path.startswith("status.") for path in change) else {}


@st.composite
def foreign_objects(draw: st.DrawFn, kind: str = "JobSet") -> dict[str, Any]:
    """An object that is the run's own, except perhaps for its name, owner, labels or namespace."""
    made = jobset(
        draw(st.sampled_from([1, 1, 0, 2, 3])),
        outcome=draw(st.sampled_from(["", "", "Completed", "Failed"])),
        reason="ReachedMaxRestarts",
        in_place=draw(st.booleans()),
    )
    if kind == "ConfigMap":
        made = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": made["metadata"],
            "data": {names.RUN_DOCUMENT_KEY: "mine"},
        }
    if kind == "JobSet" and draw(st.booleans()):
        made["metadata"]["labels"] = {**made["metadata"]["labels"], LABEL_QUEUE: "research"}
        made["spec"] = {**made.get("spec", {}), "suspend": draw(st.booleans())}
    metadata = made["metadata"]
    strange = ["demo-2", "demo-probe", "demo", "demo-1-x", "demo-one", "other-1", "coredns"]
    metadata["name"] = draw(st.sampled_from([*[metadata["name"]] * 5, *strange]))
    owner = draw(st.sampled_from([*[UID] * 5, "someone-else", "", None]))
    metadata["ownerReferences"] = (
        [{"kind": "TrainingRun", "name": "demo", "uid": owner, "controller": True}] if owner is not None else []
    )
    metadata["uid"] = draw(st.sampled_from([*[metadata["uid"]] * 3, "another", ""]))
    if draw(st.integers(0, 3)) == 0:
        metadata["labels"] = {**metadata.get("labels", {}), names.LABEL_ROLE: names.ROLE_PROBE}
    if draw(st.integers(0, 3)) == 0:
        metadata["deletionTimestamp"] = rfc(0)
    return made


PODS = [
    pod(),
    # The pods of the process group in the status, one of them being deleted, and a pod that only has the run's labels.
    pod(1, 1),
    deleted(pod(1, 1, 1), 5),
    changed(pod(1, 1, 2), {"metadata.ownerReferences": []}),
    pod(1, 2, 0, 0, **ended(83, 12, termination("runChanged", 83))),
    pod(1, 2, 1, 0, **(ended(42, 12) | disrupted(10))),
    pod(
        1, 2, phase="Pending", containerStatuses=[{"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull"}}}]
    ),
    # A container holds it after its trainer; a finalizer keeps it; its node has evicted it.
    pod(1, 1, 3, containerStatuses=[*ended(0, 12)["containerStatuses"], {"name": "proxy", "state": {"running": {}}}]),
    changed(deleted(pod(1, 1, 4, phase="Failed"), 5), {"metadata.finalizers": ["example.com/billing"]}),
    pod(1, 2, 2, 0, **(ended(42, 12) | {"reason": "Evicted", "message": "too much"})),
]
"""Pods of a run, running, ended and waiting."""

GUARDS = [
    (),
    (ProbeView(parse_jobset(jobset(uid="stranger") | {"metadata": {"name": "stranger"}}), ()),),
    (
        ProbeView(
            replace(parse_jobset(jobset(uid="guard")), name=names.guard_name("demo", "node-a")), (parse_pod(pod()),)
        ),
    ),
    (ProbeView(replace(parse_jobset(jobset(uid="guard")), name=names.guard_name("demo", "other")), ()),),
]
"""What may keep a run's pods off nodes."""

PLANNERS = [
    None,
    PlannerView(parse_jobset(jobset()), ""),
    PlannerView(
        replace(parse_jobset(jobset(outcome="Failed", uid="plan")), name="demo-plan"),
        "0" * 63,
        parse_pod(pod()),
        PlanStatus(message="x" * 1024),
    ),
]
"""What may plan a run."""

HEADS = [head(), head(10), head(500, epoch=(99_999, 3)), head(1, owner=("other", "run"))]
"""Possible HEADs of a root."""


def any_observation(data: st.DataObject) -> Observed:
    """Any observation of a run with two JobSets, its pods and a probe."""
    found = jobset(
        restarts=2,
        counted=1,
        outcome=data.draw(st.sampled_from(["", "Completed", "Failed"])),
        reason="ReachedMaxRestarts",
    )
    if data.draw(st.booleans()):
        found["metadata"]["labels"][LABEL_QUEUE] = "research"
        found["spec"] = {"suspend": data.draw(st.booleans())}
    probe = None
    if data.draw(st.booleans()):
        probe = ProbeView(parse_jobset(spoil(jobset(0), data)), (parse_pod(spoil(pod(0, 0), data)),))
    return observations(
        data,
        perhaps(data.draw(run_documents()), data),
        jobsets=tuple(parse_jobset(perhaps(one, data)) for one in (found, jobset(2))),
        pods=tuple(parse_pod(perhaps(one, data)) for one in PODS),
        probe=probe,
        config_map=parse_object("ConfigMap", spoil({"metadata": {"name": "demo-1", "uid": "x"}}, data)),
    )
