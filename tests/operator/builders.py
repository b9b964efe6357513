"""Objects as the API server would store them, for tests of the operator's pure decisions."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from halcyon_api import names
from halcyon_api.checkpoint_documents import CommittedStep, Epoch, Head, Owner
from halcyon_api.status.progress import ProgressReport
from halcyon_operator.model.endings import seen_endings
from halcyon_operator.model.settings import Settings, parse_settings
from halcyon_operator.model.views import HeadFound, Observed
from halcyon_operator.observe.jobsets import parse_jobset
from halcyon_operator.observe.pods import parse_pod
from halcyon_operator.observe.runs import parse_run_view
from tests.document_changes import changed
from tests.families import SMALL

START = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
UID = "11111111-1111-1111-1111-111111111111"
ENDPOINTS = ("http://store:7070", "http://store.team:7070", "http://object-store.training.svc.cluster.local:7070")


def settings_of(**values: Any) -> Settings:
    """Settings of the operator: values of the chart in addition to those that tests need."""
    needed = {
        "trainerImage": "registry.example/halcyon/trainer:1.0",
        "objectStore": {"s3": {"endpoints": ENDPOINTS}},
        "planning": {"mode": "off"},
    }
    return parse_settings(json.dumps(needed | values))


SETTINGS = settings_of()

SPEC: dict[str, Any] = {
    "accelerator": {"type": "cpu", "topology": "1x1", "slices": 2},
    "model": {**SMALL},
    "data": {"sources": [{"name": "python", "stdlib": {}}]},
    "trainer": {"steps": 300, "batchSize": 8, "sequenceLength": 32},
    "checkpoint": {"root": "s3://bucket/demo"},
    "recovery": {"maxRestarts": 3},
}


def at(seconds: float) -> datetime:
    """A time `seconds` after `START`."""
    return START + timedelta(seconds=seconds)


def rfc(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def run(
    status: dict[str, Any] | None = None, *, generation: int = 1, name: str = "demo", **spec: Any
) -> dict[str, Any]:
    """A TrainingRun. Changes of the spec by path, with ``__`` for the dots."""
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": UID,
            "generation": generation,
            "resourceVersion": "1",
        },
        "spec": changed(SPEC, {path.replace("__", "."): value for path, value in spec.items()}),
        **({"status": status} if status is not None else {}),
    }


def jobset(
    attempt: int = 1,
    *,
    restarts: int = 0,
    counted: int = 0,
    outcome: str = "",
    reason: str = "",
    uid: str = "",
    deleting: bool = False,
    in_place: bool = True,
    guarded: bool = False,
) -> dict[str, Any]:
    """A JobSet of the run. Outcome: ``Completed`` or ``Failed``."""
    metadata: dict[str, Any] = {
        "name": f"demo-{attempt}",
        "namespace": "default",
        "uid": uid or f"jobset-{attempt}",
        "labels": {names.LABEL_RUN: "demo", names.LABEL_RUN_UID: UID, names.LABEL_ATTEMPT: str(attempt)},
        "ownerReferences": [{"kind": "TrainingRun", "name": "demo", "uid": UID, "controller": True}],
    }
    if deleting:
        metadata["deletionTimestamp"] = rfc(0)
    status: dict[str, Any] = {"restarts": restarts, "restartsCountTowardsMax": counted}
    if outcome:
        status["conditions"] = [
            {
                "type": outcome,
                "status": "True",
                "reason": reason,
                "message": "as the test wants",
                "lastTransitionTime": rfc(100),
            }
        ]
    found = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "status": status}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}} if guarded else {}
    pods = {"template": {"spec": {"affinity": affinity}}}
    jobs = [{"name": "s", "replicas": 2, "template": {"spec": {"backoffLimit": 1} | pods}}]
    return found | ({"spec": {"replicatedJobs": jobs}} if in_place else {})


REFUSED = "FailJobSetFailurePolicyAction"
EXHAUSTED = "ReachedMaxRestarts"


def pod(attempt: int = 1, restart: int = 0, slice_index: int = 0, host: int = 0, **status: Any) -> dict[str, Any]:
    """A trainer pod, running unless its status is given."""
    return {
        "metadata": {
            "name": f"demo-{attempt}-s-{slice_index}-{host}-abcde",
            "namespace": "default",
            "uid": f"pod-{attempt}-{restart}-{slice_index}-{host}",
            "labels": {
                names.LABEL_RUN: "demo",
                names.LABEL_RUN_UID: UID,
                names.LABEL_ATTEMPT: str(attempt),
                names.JOBSET_UID_LABEL: f"jobset-{attempt}",
                names.JOBSET_RESTART: str(restart),
                names.JOBSET_JOB_INDEX: str(slice_index),
                names.JOB_COMPLETION_INDEX: str(host),
            },
            "ownerReferences": [
                {
                    "kind": "Job",
                    "name": f"demo-{attempt}-s-{slice_index}",
                    "uid": f"job-{slice_index}",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": "node-a",
            "containers": [{"name": "trainer", "env": [{"name": "HALCYON_SAVE_TOKEN", "value": "the-token"}]}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running()], **status},
    }


def running() -> dict[str, Any]:
    return {"name": "trainer", "state": {"running": {"startedAt": rfc(0)}}}


def ended(code: int, seconds: float, message: str = "") -> dict[str, Any]:
    """The status of a pod whose trainer has ended."""
    terminated = {
        "exitCode": code,
        "finishedAt": rfc(seconds),
        "reason": "Error" if code else "Completed",
        "message": message,
    }
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}],
    }


def disrupted(seconds: float, reason: str = "EvictionByEvictionAPI") -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Eviction API: evicting"}
    return {"conditions": [{**condition, "lastTransitionTime": rfc(seconds)}]}


def deleted(pod: dict[str, Any], seconds: float, grace: int = 30) -> dict[str, Any]:
    """The pod after its deletion was requested."""
    result = copy.deepcopy(pod)
    result["metadata"] |= {"deletionTimestamp": rfc(seconds + grace), "deletionGracePeriodSeconds": grace}
    return result


def termination(
    cause: str, code: int, *, step: int = 0, message: str = "because", attempt: int = 1, **more: Any
) -> str:
    """A termination message."""
    document = {
        "cause": cause,
        "exitCode": code,
        "message": message,
        "run": "demo",
        "attempt": attempt,
        "step": step,
        "time": rfc(50),
        **more,
    }
    return json.dumps(document)


def report(
    attempt: int = 1, restart: int = 0, step: int = 10, resumed: int | None = 0, *, first: float | None = 5, **more: Any
) -> ProgressReport:
    """A report of process 0 while it trains."""
    return ProgressReport.model_validate(
        {
            "run": "demo",
            "attempt": attempt,
            "restart": restart,
            "processIndex": 0,
            "stage": "training",
            "startedAt": rfc(0),
            "resumedStep": resumed,
            "firstStepAt": None if first is None else rfc(first),
            "progress": {"step": step, "steps": 300, "tokens": step * 256, "loss": 2.5},
            **more,
        },
        by_alias=True,
    )


def head(
    step: int | None = None, *, epoch: tuple[int, int] = (1, 0), owner: tuple[str, str] = ("default", "demo")
) -> HeadFound:
    """The HEAD of a root, with one committed step or none."""
    committed = ()
    at_epoch = Epoch(attempt=epoch[0], restart=epoch[1])
    if step is not None:
        path = f"steps/{step:012d}.{epoch[0]:06d}.n/"
        committed = (
            CommittedStep(step=step, epoch=at_epoch, path=path, manifest_sha256="0" * 64, size_bytes=9, time=rfc(40)),
        )
    return HeadFound(Head(owner=Owner(namespace=owner[0], name=owner[1]), epoch=at_epoch, committed=committed))


def observed(
    document: dict[str, Any],
    *,
    jobsets: list[dict[str, Any]] = [],  # noqa: B006
    pods: list[dict[str, Any]] = [],  # noqa: B006
    gone: list[dict[str, Any]] = [],  # noqa: B006
    **more: Any,
) -> Observed:
    """What the operator would observe. Of the deleted pods `gone` it has recorded how they ended."""
    views = tuple(map(parse_pod, pods))
    endings, replaced = seen_endings(views, (view.ending for view in map(parse_pod, gone) if view.ending is not None))
    return replace(
        Observed(
            run=parse_run_view(document),
            settings=SETTINGS,
            jobsets=tuple(map(parse_jobset, jobsets)),
            pods=views,
            endings=endings,
            replaced=replaced,
        ),
        **more,
    )


def defaults(*, namespace: str = "default", name: str = "default", generation: int = 1, **spec: Any) -> dict[str, Any]:
    """A TrainingRunDefaults. Its spec by path, with ``__`` for the dots."""
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRunDefaults",
        "metadata": {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "generation": generation},
        "spec": changed({}, {path.replace("__", "."): value for path, value in spec.items()}),
    }
