"""The tables of the operator's reference: ``python -m halcyon_operator.run.reference PAGE``.

Those of the reasons are texts, that of the metrics is generated. Tests compare the committed page with them, and the
texts with `model.reasons`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from halcyon_operator.run.metrics import Metrics

_STANDARD = ("process_", "python_")
"""Prefixes of the metrics that `prometheus_client` adds by itself."""
_SUFFIX = {"counter": "_total", "info": "_info"}
STARTS = """\
| reason of `Ready` | check |
|---|---|
| `ImagePullFailed` | `spec.image` ([runbook](../runbooks/HalcyonRunPodsStuck.md)) |
| `ContainerConfigInvalid` | the Secrets in `spec.checkpoint.credentialsSecret` and `spec.env` |
| `Unschedulable` | whether there are nodes with this accelerator and topology |
| `AwaitsRun` | the run in `spec.after` or `spec.from` ([tasks](../guides/tasks.md)) |
| `ReadingCheckpointRoot` | nothing: for a few seconds the operator reads in the checkpoint root where to continue |
| `RestartsWithoutCheckpoint` | why the run loses its nodes ([runbook](../runbooks/HalcyonRunHeldBack.md)) |
| `PodStuckTerminating` | the node of a pod that does not end ([runbook](../runbooks/HalcyonRunPodsStuck.md)) |
| `PodsNotStarting` | volume, network and image of a pod that has a node ([runbook](../runbooks/HalcyonRunPodsStuck.md)) |
| `PodsRefused` | the quota, policy or webhook that refuses the pods ([runbook](../runbooks/HalcyonRunPodsStuck.md)) |
| `JobSetControllerSilent` | the deployment `jobset-controller-manager` ([runbook](../runbooks/HalcyonRunPodsStuck.md)) |
| `PodHeld` | the container that keeps a pod alive ([sidecars](../guides/cluster.md#sidecars-and-service-meshes)) |
| `Planning` | nothing: a pod without accelerators [compiles the step](../guides/planning.md#in-a-cluster) |
| `CreateRefused` | quota, admission policies, webhooks of JobSet and Kueue: the message has the API server's reason |
| `JobSetSuspended` | who suspended the JobSet; the run goes on when a user resumes the JobSet |
| `QueueEvicted` | nothing: the queue took its quota back, and the processes save and exit. Then the run is `Queued` |
"""
"""What to check at each `halcyon_operator.model.reasons.StartReason`."""
STALLS = """\
| reason | what happened | what to do |
|---|---|---|
| `InvalidSpec` | the document is not valid, this installation does not allow it, or its defaults cannot be used; a running attempt goes on until `suspend: true` | edit what the message names |
| `NameTaken` | an object of another owner has the name of the attempt's JobSet or ConfigMap, or [a JobSet of an earlier run of this name](../design/deletion.md#a-run-that-is-deleted-without-what-it-owns) still runs | delete the object; the run goes on by itself |
| `OriginUnknown` | `spec.from` names a run that does not exist, that failed before it had a checkpoint root, or whose volume the pods of this run do not have | see the message; this run begins by itself once the other run has a root |
| `AwaitedRunFailed` | the run in `spec.after` has failed | fix that run; this run begins by itself when that run has succeeded |
| `AwaitedRunCycle` | runs wait for one another in a cycle by `spec.after` | remove `spec.after` from one of them |
| `KueueMissing` | the run names a queue, and the cluster has no Kueue | install Kueue, or remove `spec.scheduling.queue` |
| `QueueRefused` | Kueue has finished the Workload of the run without starting it | fix what the message names; then edit a field [at a checkpoint](trainingrun.md#the-effect-of-an-edit), or suspend and resume the run |
| `QueueDeactivated` | Kueue or a user has deactivated the Workload of the run | set `spec.active` of the Workload to true, or suspend and resume the run |
| `CheckpointRootTaken` | the root has the checkpoints of another run | create the run again with another root |
| `RestartsExhausted` | more than `spec.recovery.maxRestarts` failures in a row without a new checkpoint | read the logs of the pods, fix the cause, then edit the spec |
| `DoesNotFit` | `spec.plan: require`, and a step needs more memory than a device has | more microbatches, `remat`, more or larger devices, another mesh (`halcyon plan --search`), or a smaller model as a new run |
| `PlanFailed` | `spec.plan: require`, and the planning pod failed or took too long | what the message names, or `spec.plan: warn` |
| `ReconcileFailed` | the operator itself fails at this run; its processes train on, and `suspend: true` and a deletion have effect | report the trace in the operator's log; an edit of what the message names may help |
| `AttemptsExhausted` | 99,999 attempts were made | create a new run with another name and root |
"""
"""What happened at each `halcyon_operator.model.reasons.OwnStallReason`, and what to do."""


def tables() -> dict[str, str]:
    """The tables, by the name in their marks. A metric has the help text that a scrape has."""
    metrics = sorted(
        (f"`{metric.name}{_SUFFIX.get(metric.type, '')}`", metric.type, metric.documentation)
        for metric in Metrics().registry.collect()
        if not metric.name.startswith(_STANDARD)
    )
    return {
        "reasons of a start": STARTS,
        "reasons of a stop": STALLS,
        "metrics": _table(("metric", "type", "meaning"), metrics),
    }


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|---" * len(head) + "|", *(f"| {line} |" for line in lines[1:])]) + "\n"


def written(page: str) -> str:
    """The page with each present table between its two marks."""
    for name, table in tables().items():
        begin = f"<!-- {name}: begin; made by `make generate` -->\n"
        before, rest = page.split(begin)
        page = before + begin + table + rest[rest.index(f"<!-- {name}: end -->") :]
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
