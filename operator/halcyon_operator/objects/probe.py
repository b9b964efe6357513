"""The JobSet that probes for room for more slices: like the run's JobSet, but its pods do nothing. Pure.

It is a JobSet so that its pods are placed by the same rules as those of the run (a slice in one node pool), and so that
the operator needs no additional rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halcyon_api import names
from halcyon_api.elastic import on_slices, usable_slices
from halcyon_api.training_run import API_VERSION, KIND, TrainingRunSpec
from halcyon_operator.model.decision import Manifest
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.untrusted import value_at
from halcyon_operator.model.views import RunView
from halcyon_operator.objects.hardware import node_requirements
from halcyon_operator.objects.owned_pods import probe_security

JOBSET_API_VERSION = "jobset.x-k8s.io/v1alpha2"
CONTAINER = "probe"
_PAUSE = ["python3", "-c", "import signal; signal.pause()"]
"""Waits for a signal; every trainer image has Python."""
_REPLACEMENTS = 1_000_000
"""Backoff limit: each evicted pod is replaced by a new one that waits."""


def is_probe(document: object) -> bool:
    """Whether an object belongs to a probe, not to an attempt."""
    return value_at(document, "metadata", "labels", names.LABEL_ROLE) == names.ROLE_PROBE


def build_probe(
    run: RunView, spec: TrainingRunSpec, settings: Settings, slices: int, avoided: Sequence[str] = ()
) -> Manifest:
    """The JobSet of a probe.

    Args:
        run: The run, for its name, namespace and uid.
        spec: The run's spec.
        settings: The operator's settings.
        slices: Number of additional slices to probe for.
        avoided: Names of nodes that the pods must not use.
    """
    wanted = on_slices(spec, max(usable_slices(spec)))
    requirements = node_requirements(wanted, avoided, settings.pod_memory)
    labels = settings.trainer_pods.labels | spec.scheduling.labels
    labels |= {
        names.LABEL_PART_OF: names.PART_OF,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_RUN: run.name,
        names.LABEL_RUN_UID: run.uid,
        names.LABEL_ROLE: names.ROLE_PROBE,
    }
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata: dict[str, Any] = {
        "name": names.probe_name(run.name),
        "namespace": run.namespace,
        "labels": labels,
        "ownerReferences": [owner],
    }
    pod_context, container_context = probe_security(settings.trainer_pods, spec.accelerator.row)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": spec.image or settings.trainer_image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": _PAUSE,
        "securityContext": container_context,
    }
    pod: dict[str, Any] = {
        # The Job makes a new pod, which the scheduler queues again, instead of restarting the container.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_context,
        "containers": [container | ({"resources": requirements.resources} if requirements.resources else {})],
    }
    optional = {
        "nodeSelector": requirements.node_selector,
        "tolerations": requirements.tolerations,
        "affinity": requirements.affinity,
        "priorityClassName": settings.probes.priority_class.name,
        "imagePullSecrets": [{"name": name} for name in settings.trainer_pods.image_pull_secrets],
    }
    hosts = wanted.accelerator.resolve().hosts_per_slice
    return {
        "apiVersion": JOBSET_API_VERSION,
        "kind": "JobSet",
        "metadata": metadata
        | ({"annotations": requirements.jobset_annotations} if requirements.jobset_annotations else {}),
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
