"""The objects of one attempt: a ConfigMap with the run document and a JobSet of one job for each slice. Pure.

How the JobSet recovers even while no operator runs:

- A pod that Kubernetes disrupts (eviction, preemption, loss of its node), and a trainer that saved and exited (exit
  code 42), fail their Job at once with a message about it. The JobSet then restarts the whole process group and does
  not count the restart.
- A reserved exit code fails the Job too, and the JobSet stops: the operator decides.
- Any other failure fails the Job by its backoff limit of 0. The JobSet restarts the process group and counts the
  restart.

The order of the rules matters for two reasons: an evicted pod also has an exit code, and the last rule of the failure
policy matches every Job that the pod failure policy ended. A pod failure policy needs ``restartPolicy: Never``, which
is not JobSet's default. Every field that JobSet's webhook would fill in is set here, because JobSet's controller relies
on them and the webhook may be off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from halcyon_api import names
from halcyon_api.defaults.resource import BUILT_IN
from halcyon_api.defaults.units import resolved
from halcyon_api.ends import FATAL_CODES, ExitCode
from halcyon_api.training_run import API_VERSION, KIND, TrainingRunSpec
from halcyon_api.yaml_text import dump
from halcyon_operator.model.decision import ConfigMapPlan, JobSetPlan, Manifest, Plan, ProbePlan
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.views import RunView
from halcyon_operator.objects.hardware import EXCLUSIVE_TOPOLOGY_ANNOTATION, node_requirements
from halcyon_operator.objects.kueue import jobset_annotations, jobset_labels, pod_annotations
from halcyon_operator.objects.pod_template import pod_template
from halcyon_operator.objects.probe import build_probe

JOBSET_API_VERSION = "jobset.x-k8s.io/v1alpha2"
RULE_PREEMPTED = "preempted"
RULE_SAVED = "saved"
RULE_REFUSED = "refused"
_NOT_FOR_TRAINERS = ("after", "defaults", "env")
"""Fields that a trainer does not need.

Its image may be a version that does not know them; `env` is in the pod's environment.
"""


def build_config_map(run: RunView, attempt: int, spec: TrainingRunSpec | None = None) -> Manifest:
    """The ConfigMap with the run document for the trainer. It is immutable.

    Args:
        run: The run.
        attempt: The attempt's number.
        spec: The run's spec on the attempt's number of slices. Default: the user's spec with its defaults filled in.
    """
    # The document contains the built-in defaults, because the trainer's image may be a version with other defaults.
    whole = (
        resolved(run.raw_spec, BUILT_IN, run.namespace, run.name)
        if spec is None or spec == run.spec
        else spec.document()
    )
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": run.name, "namespace": run.namespace, "uid": run.uid, "generation": run.generation},
        "spec": {field: value for field, value in whole.items() if field not in _NOT_FOR_TRAINERS},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(run, attempt),
        "immutable": True,
        "data": {names.RUN_DOCUMENT_KEY: dump(document)},
    }


def build_jobset(
    run: RunView,
    spec: TrainingRunSpec,
    settings: Settings,
    attempt: int,
    resume_step: int,
    remaining_restarts: int,
    avoided: Sequence[str] = (),
    save_token: str = "",
) -> Manifest:
    """The JobSet of one attempt.

    Args:
        run: The run, for its name, namespace and uid.
        spec: The run's parsed spec, on the attempt's number of slices.
        settings: The operator's settings.
        attempt: The attempt's number, already recorded in the run's status.
        resume_step: Committed steps that the trainer must find.
        remaining_restarts: Counted restarts until the JobSet gives up.
        avoided: Names of nodes that the pods must not use.
        save_token: Secret that a request for a checkpoint must contain.
    """
    topology = spec.accelerator.resolve()
    requirements, queue = node_requirements(spec, avoided, settings.pod_memory), spec.scheduling.queue
    annotations = requirements.jobset_annotations | jobset_annotations(queue)
    if queue is not None and queue.topology is not None:
        # Kueue then chooses the nodes, so JobSet must not choose them.
        annotations.pop(EXCLUSIVE_TOPOLOGY_ANNOTATION, None)
        requirements = replace(
            requirements,
            pod_annotations=requirements.pod_annotations | pod_annotations(queue, topology.hosts_per_slice),
        )
    metadata, more = _metadata(run, attempt, annotations), settings.trainer_pods.labels | spec.scheduling.labels
    return {
        "apiVersion": JOBSET_API_VERSION,
        "kind": "JobSet",
        "metadata": metadata | {"labels": more | metadata["labels"] | jobset_labels(queue)},
        "spec": {
            "network": {
                "enableDNSHostnames": True,
                "subdomain": names.subdomain(run.uid, attempt),
                "publishNotReadyAddresses": True,
            },
            "coordinator": {"replicatedJob": names.REPLICATED_JOB, "jobIndex": 0, "podIndex": 0},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": [names.REPLICATED_JOB]},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "failurePolicy": _failure_policy(remaining_restarts),
            # Kueue would suspend it too. But if Kueue is not installed, a run with a queue must not start without
            # quota.
            "suspend": queue is not None,
            "replicatedJobs": [
                {
                    "name": names.REPLICATED_JOB,
                    "groupName": "default",
                    "replicas": topology.slices,
                    "template": {
                        "metadata": {"labels": more | labels(run, attempt)},
                        "spec": {
                            "parallelism": topology.hosts_per_slice,
                            "completions": topology.hosts_per_slice,
                            "completionMode": "Indexed",
                            "backoffLimit": 0,
                            "podReplacementPolicy": "Failed",
                            "podFailurePolicy": _pod_failure_policy(),
                            "template": pod_template(
                                run,
                                spec,
                                settings,
                                attempt,
                                resume_step,
                                more | labels(run, attempt),
                                requirements,
                                save_token,
                            ),
                        },
                    },
                }
            ],
        },
    }


def labels(run: RunView, attempt: int) -> dict[str, str]:
    """Labels of everything that belongs to an attempt."""
    return {
        names.LABEL_PART_OF: names.PART_OF,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_RUN: run.name,
        names.LABEL_RUN_UID: run.uid,
        names.LABEL_ATTEMPT: str(attempt),
    }


def _metadata(run: RunView, attempt: int, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": names.jobset_name(run.name, attempt),
        "namespace": run.namespace,
        "labels": labels(run, attempt),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": run.name,
                "uid": run.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return metadata | ({"annotations": annotations} if annotations else {})


def _pod_failure_policy() -> dict[str, Any]:
    def exit_codes(*codes: int) -> dict[str, Any]:
        return {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": names.TRAINER_CONTAINER,
                "operator": "In",
                "values": sorted(map(int, codes)),
            },
        }

    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {"rules": [disrupted, exit_codes(ExitCode.PREEMPTED), exit_codes(*FATAL_CODES)]}


def _failure_policy(max_restarts: int) -> dict[str, Any]:
    def rule(name: str, action: str, *patterns: str) -> dict[str, Any]:
        return {
            "name": name,
            "action": action,
            "onJobFailureReasons": ["PodFailurePolicy"],
            "targetReplicatedJobs": [names.REPLICATED_JOB],
        } | ({"onJobFailureMessagePatterns": list(patterns)} if patterns else {})

    return {
        "maxRestarts": max_restarts,
        # The old coordinator must have ended before a new process connects to the same name.
        "restartStrategy": "BlockingRecreate",
        "rules": [
            rule(RULE_PREEMPTED, "RestartJobSetAndIgnoreMaxRestarts", ".*DisruptionTarget.*"),
            rule(
                RULE_SAVED, "RestartJobSetAndIgnoreMaxRestarts", f".*failed with exit code {int(ExitCode.PREEMPTED)} .*"
            ),
            rule(RULE_REFUSED, "FailJobSet"),
        ],
    }


def build(plan: Plan) -> Manifest:
    """The object that a plan describes."""
    match plan:
        case ConfigMapPlan(run, attempt, spec):
            return build_config_map(run, attempt, spec)
        case JobSetPlan(run, spec, settings, attempt, resume_step, remaining_restarts, avoided, save_token):
            return build_jobset(run, spec, settings, attempt, resume_step, remaining_restarts, avoided, save_token)
        case ProbePlan(run, spec, settings, slices, avoided):
            return build_probe(run, spec, settings, slices, avoided)
