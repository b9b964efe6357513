"""Looks for room for more slices while the run goes on: a JobSet like the run's own, whose pods ask for the same and do nothing. Pure.

If its pods run, there is room; they hold it until the run has saved and stopped, and have pulled the image by then. Autoscalers see
them like any others. It is a JobSet so that its pods are placed by the same rules as those of the run (a slice in one node pool), and
so that the operator needs no further rights. There is at most one, and only while the run trains: as soon as pods of the run itself wait
for nodes, it makes way for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from halcyon_api import names
from halcyon_api.elastic import on_slices, usable_slices
from halcyon_api.status import TrainingRunStatus
from halcyon_api.training_run import API_VERSION, KIND, TrainingRunSpec
from halcyon_operator.decide.bad_nodes import still_avoided
from halcyon_operator.decide.growth import may_look
from halcyon_operator.decide.placement import placement_of, trains
from halcyon_operator.model.decision import Deletion, Manifest
from halcyon_operator.model.history import entry_of
from halcyon_operator.model.untrusted import dig, seconds_between
from halcyon_operator.model.views import Observed, Platform, RunView
from halcyon_operator.objects.hardware import place
from halcyon_operator.objects.owned_pods import probe_security

JOBSET_API_VERSION = "jobset.x-k8s.io/v1alpha2"
CONTAINER = "probe"
_PAUSE = ["python3", "-c", "import signal; signal.pause()"]
"""What the trainer's image is sure to have."""
_REPLACEMENTS = 1_000_000
"""A pod that is evicted makes place for one that waits."""


def is_probe(document: object) -> bool:
    """Whether an object belongs to a probe, not to an attempt."""
    return dig(document, "metadata", "labels", names.LABEL_ROLE) == names.ROLE_PROBE


def missing_slices(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> int:
    """For how many slices room is to be looked for now."""
    elastic, placement = spec.recovery.elastic, placement_of(status, spec)
    if elastic is None or placement.waiting_since is not None or not trains(status):
        return 0
    entry = entry_of(status, (status.attempt, status.job_set_restarts))
    since = entry.first_step_at if entry is not None else None
    if observed.probe is None and (seconds_between(since, now) < elastic.grow_after_seconds or not may_look(placement, now)):
        return 0
    return max(0, max(usable_slices(spec), default=0) - placement.slices)


def tend_probe(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec | None, now: datetime, *, holding: bool
) -> tuple[tuple[Manifest, ...], tuple[Deletion, ...]]:
    """What to create and what to delete, so that there is the probe that there should be.

    Args:
        observed: All that was looked at.
        status: The run's status after this look.
        spec: The run's spec; None where the attempt is not at work.
        now: The time.
        holding: The old attempt is being stopped for the room that the probe holds, or the new one is about to take it.
    """
    probe = observed.probe
    missing = missing_slices(observed, status, spec, now) if spec is not None else 0
    if probe is None:
        wanted = (build_probe(observed.run, spec, observed.platform, missing, status, now),) if spec is not None and missing else ()
        return wanted, ()
    own = probe.jobset.owner_uid == observed.run.uid != "" and probe.jobset.name == names.probe_name(observed.run.name)
    if probe.jobset.deleting or not own:
        return (), ()
    if holding or (missing and probe.jobset.replicas == missing and probe.jobset.outcome == "running"):
        return (), ()
    return (), (Deletion("JobSet", probe.jobset.name, probe.jobset.uid),)


def build_probe(run: RunView, spec: TrainingRunSpec, platform: Platform, slices: int, status: TrainingRunStatus, now: datetime) -> Manifest:
    """The JobSet of a probe for so many slices."""
    avoided = [node.node for node in still_avoided(placement_of(status, spec).avoided, spec.recovery.bad_nodes, now)]
    wanted = on_slices(spec, max(usable_slices(spec)))
    placement = place(wanted, avoided, platform.pod_memory)
    labels = {
        names.LABEL_PART_OF: names.PART_OF,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_RUN: run.name,
        names.LABEL_RUN_UID: run.uid,
        names.LABEL_ROLE: names.ROLE_PROBE,
    }
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": run.name, "uid": run.uid, "controller": True, "blockOwnerDeletion": True}
    metadata: dict[str, Any] = {
        "name": names.probe_name(run.name),
        "namespace": run.namespace,
        "labels": labels,
        "ownerReferences": [owner],
    }
    pod_context, container_context = probe_security(platform.pods, spec.accelerator.row)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": spec.image or platform.trainer_image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": _PAUSE,
        "securityContext": container_context,
    }
    pod: dict[str, Any] = {
        # The Job makes a new pod, with a place in the queue of its own, rather than start a container again.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_context,
        "containers": [container | ({"resources": placement.resources} if placement.resources else {})],
    }
    optional = {
        "nodeSelector": placement.node_selector,
        "tolerations": placement.tolerations,
        "affinity": placement.affinity,
        "priorityClassName": platform.probe_priority_class,
        "imagePullSecrets": [{"name": name} for name in platform.pods.image_pull_secrets],
    }
    hosts = wanted.accelerator.resolve().hosts_per_slice
    return {
        "apiVersion": JOBSET_API_VERSION,
        "kind": "JobSet",
        "metadata": metadata | ({"annotations": placement.jobset_annotations} if placement.jobset_annotations else {}),
        "spec": {
            "network": {"enableDNSHostnames": False, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": [names.REPLICATED_JOB]},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "suspend": False,
            "replicatedJobs": [
                {
                    "name": names.REPLICATED_JOB,
                    "groupName": "default",
                    "replicas": slices,
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "parallelism": hosts,
                            "completions": hosts,
                            "completionMode": "Indexed",
                            "backoffLimit": _REPLACEMENTS,
                            "template": {
                                "metadata": {"labels": labels},
                                "spec": pod | {name: value for name, value in optional.items() if value},
                            },
                        },
                    },
                }
            ],
        },
    }
