"""A run on hosts as the decisions of the operator see it: its document as a run, its processes as pods. Pure."""

import json
from dataclasses import dataclass
from datetime import datetime

from halcyon_api import names
from halcyon_api.edits.changes import recorded, values_of
from halcyon_api.mesh import pinned
from halcyon_api.spec.scheduling import SchedulingSpec
from halcyon_api.status.run_status import parse_status
from halcyon_api.training_run import API_VERSION, KIND, TrainingRun, TrainingRunSpec
from halcyon_operator.model.decision import Manifest
from halcyon_operator.model.settings import Settings, parse_settings
from halcyon_operator.model.views import NOT_REACHED, PodEnding, PodView, ProcessGroup, ProcessIndex, RunView
from halcyon_operator.observe.pods import parse_termination

STATUS_KEY = "status.json"
"""The run with its status, in its checkpoint root."""


@dataclass(frozen=True)
class Seen:
    """What is known of a process that was started on a host.

    Attributes:
        number: How many this manager had started before it.
        process: Index of the process in its group.
        host: Its host; empty: none is free.
        group: Its process group.
        created_at: When it was due.
        began_at: When the host was reached.
        asked_at: When the manager asked it to end.
        notice: Why the hosts end too; empty: the manager only wants the process to end.
        ended_at: When it ended.
        code: Its exit code, once it has ended.
        lost: Why the host or the connection to it is lost; empty: it is not.
        report: Its termination report, as JSON.
    """

    number: int
    process: int
    host: str
    group: ProcessGroup
    created_at: datetime
    began_at: datetime | None = None
    asked_at: datetime | None = None
    notice: str = ""
    ended_at: datetime | None = None
    code: int | None = None
    lost: str = ""
    report: str = ""


def run_view(run: TrainingRun, document: Manifest, restart_request: str = "") -> RunView:
    """The run, without what only a cluster has: its queue, the runs that it waits for, slices that come and
    go, other rows of hardware.

    Args:
        run: The run.
        document: The document that the manager wrote before; empty: there is none.
        restart_request: The user's request to go on with a run that has stopped.
    """
    spec, metadata = pinned(run.spec), run.metadata
    fields = recorded(values_of(spec))
    recovery = spec.recovery.but(elastic=None)
    origin = None if spec.origin is None else spec.origin.but(run=None)  # its root is not read here
    spec = spec.but(
            after=None, env=[], origin=origin, place=None, plan=None, recovery=recovery,
            scheduling=SchedulingSpec(),
        )  # fmt: skip
    raw = document.get("status")
    return RunView(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=f"{metadata.namespace}/{metadata.name}",
        generation=1,
        resource_version="",
        deleting=False,
        spec=spec,
        problems=(),
        status=parse_status(raw),
        save_request="",
        restart_request=restart_request,
        fields=fields,
        raw_status=raw if isinstance(raw, dict) else {},
        on_hosts=True,
    )


def settings_for(spec: TrainingRunSpec) -> Settings:
    """Settings of an operator that rejects nothing of a run: its user owns the hosts."""
    endpoint = spec.checkpoint.endpoint
    lists = {"endpoints": [] if endpoint is None else [endpoint]}
    settings = {
        "trainerImage": "none",
        "gpuDirect": {"allowed": True},
        "planning": {"mode": "off"},
        "objectStore": {"s3": lists},
    }
    return parse_settings(json.dumps(settings))


def written(run: RunView, status: Manifest) -> Manifest:
    """What the manager writes: the run with its status, in the form in which a cluster has it."""
    metadata = {"namespace": run.namespace, "name": run.name}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": status}


def pod_of(one: Seen, run: RunView, jobset_uid: str, token: str) -> PodView:
    """The process as a pod, with its ending."""
    over = one.ended_at is not None
    phase = ("Succeeded" if one.code == 0 else "Failed") if over else "Running" if one.began_at else "Pending"
    return PodView(
        name=_name(one, run),
        uid=f"{jobset_uid}.{one.number}",
        group=one.group,
        process=process_index(one, run),
        phase=phase,
        ip=one.host,
        node=one.host,
        deleting=bool(one.asked_at) and not over,
        running=bool(one.began_at) and not over,
        waiting_reason=NOT_REACHED if one.host else "Unschedulable",
        waiting_message="" if one.host else "no host is left for it",
        waiting_for="",
        ending=ending_of(one, run, jobset_uid),
        grace_seconds=0.0,
        finalizers=(),
        other_containers=(),
        save_token=token,
        created_at=one.created_at,
        scheduled_at=one.created_at if one.host else None,
        started_at=one.began_at,
        finished_at=one.ended_at,
        job_uid=jobset_uid,
        run_uid=run.uid,
        jobset_uid=jobset_uid,
    )


def ending_of(one: Seen, run: RunView, jobset_uid: str) -> PodEnding | None:
    """How the process ended or began to end; None: it has not.

    A signal that ended it counts as a shell counts it. What the manager asked to end was deleted; after a notice it was
    disrupted. A lost host disrupts a process that had begun, and rejects one that had not.
    """
    asked = one.asked_at is not None and (one.ended_at is None or one.asked_at <= one.ended_at)
    at = one.asked_at if asked else one.ended_at
    if at is None:
        return None
    lost = ("disrupted" if one.began_at is not None else "rejected") if one.lost else "exited"
    code = one.code if one.code is None or one.code >= 0 else 128 - one.code
    return PodEnding(
        uid=f"{jobset_uid}.{one.number}",
        name=_name(one, run),
        run_uid=run.uid,
        group=one.group,
        process=process_index(one, run),
        trouble=("disrupted" if one.notice else "deleted") if asked else lost,
        at=at,
        ended=one.ended_at is not None,
        exit_code=code,
        report=parse_termination(one.report, one.group),
        message=one.notice if asked else one.lost,
        node=one.host,
        ran=one.began_at is not None,
        jobset_uid=jobset_uid,
        controlled=True,
    )


def process_index(one: Seen, run: RunView) -> ProcessIndex:
    """Slice and host of the process."""
    hosts = run.spec.accelerator.resolve().hosts_per_slice if run.spec is not None else 1
    return ProcessIndex(*divmod(one.process, hosts))


def _name(one: Seen, run: RunView) -> str:
    return names.hostname(run.name, one.group.attempt, *process_index(one, run))


def document_in(data: bytes | None) -> Manifest:
    """The document that a manager has written; empty if there is none, or if it is damaged."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("metadata"), dict) else {}
