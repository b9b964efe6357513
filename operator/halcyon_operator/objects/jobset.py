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
is not JobSet's default.

Where the processes of several pods restart in place (`recovery.inPlace`), a Job replaces a pod that was disrupted or
that saved and exited, or that leaves its node (44), and once a pod that was killed. Only three ends fail the Job and so
replace all pods: a reserved exit code, a pod that did not come back in time (43), and a crash that the supervisor does
not forgive (1), which the JobSet counts. A crash loop ends the processes twice for each restart of the JobSet, once in
place, so the JobSet may restart half as often; a third as often where a pod may leave its node.

Every field that JobSet's webhook would fill in is set here, because JobSet's controller relies
on them and the webhook may be off.

A probe searches for room for more slices. It is a JobSet like the run's, but its pods do nothing, so that they are
placed by the same rules as those of the run (a slice in one node pool), and so that the operator needs no additional
rights. What plans a run is a JobSet of one pod for the same reason.
"""

from dataclasses import replace

from halcyon_api import names
from halcyon_api.defaults.resource import BUILT_IN
from halcyon_api.defaults.units import resolved
from halcyon_api.elastic import on_slices, usable_slices
from halcyon_api.ends import FATAL_CODES, ExitCode
from halcyon_api.training_run import API_VERSION, KIND, TrainingRunSpec
from halcyon_api.yaml_text import dump
from halcyon_operator.model.decision import (
    ConfigMapPlan,
    GuardPlan,
    JobSetPlan,
    Manifest,
    Plan,
    PlannerPlan,
    ProbePlan,
    Texts,
    WorkloadPlan,
)
from halcyon_operator.model.settings import NO_MEMORY
from halcyon_operator.model.untrusted import value_at
from halcyon_operator.model.views import Role, RunView
from halcyon_operator.objects import kueue
from halcyon_operator.objects.hardware import EXCLUSIVE_TOPOLOGY_ANNOTATION, node_requirements
from halcyon_operator.objects.kueue import API_VERSION as KUEUE_API_VERSION
from halcyon_operator.objects.owned_pods import probe_security
from halcyon_operator.objects.pod_template import TERMINATION_LOG, TMP_SIZE_LIMIT, in_place, leaves_node, pod_template

JOBSET_API_VERSION = "jobset.x-k8s.io/v1alpha2"
RULE_PREEMPTED = "preempted"
RULE_SAVED = "saved"
RULE_REFUSED = "refused"
RULE_NOT_REJOINED = "notRejoined"
RULE_FAILED = "failed"
_FREE = "RestartJobSetAndIgnoreMaxRestarts"
_NOT_FOR_TRAINERS = ("after", "defaults", "env", "place", "plan")
"""Fields that a trainer does not need.

Its image may be a version that does not know them; `env` is in the pod's environment.
"""
_PROBE_CONTAINER = "probe"
_PAUSE = ["python3", "-c", "import signal; signal.pause()"]
"""Waits for a signal; every trainer image has Python."""
_WITHOUT_NETWORK: Manifest = {
    "network": {"enableDNSHostnames": False, "publishNotReadyAddresses": True},
    "suspend": False,
}
"""Of a JobSet whose pods do not look for each other."""
_NOTHING = {"cpu": "0", "memory": "0"}
_LITTLE = {"cpu": "100m", "memory": "64Mi"}
_DISRUPTED = [{"type": "DisruptionTarget", "status": "True"}]
_REPLACEMENTS = 1_000_000
"""Backoff limit: each evicted pod is replaced by a new one that waits."""


def build_config_map(plan: ConfigMapPlan) -> Manifest:
    """The ConfigMap with the run document for the trainer. It is immutable."""
    run, attempt, spec = plan.run, plan.attempt, plan.spec
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata_of(run, names.jobset_name(run.name, attempt), attempt_labels(run, attempt)),
        "immutable": True,
        "data": {names.RUN_DOCUMENT_KEY: dump(run_document(run, spec))},
    }


def run_document(run: RunView, spec: TrainingRunSpec) -> Manifest:
    """The run document for the trainer.

    It contains the built-in defaults, because the trainer's image may be a version with other defaults.
    """
    whole = resolved(run.raw_spec, BUILT_IN, run.namespace, run.name) if spec == run.spec else spec.document()
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": run.name, "namespace": run.namespace, "uid": run.uid, "generation": run.generation},
        "spec": {field: value for field, value in whole.items() if field not in _NOT_FOR_TRAINERS},
    }


def build_jobset(plan: JobSetPlan) -> Manifest:
    """The JobSet of one attempt, whose number is already recorded in the run's status."""
    run, spec, settings, attempt = plan.run, plan.spec, plan.settings, plan.attempt
    topology, queue, again = spec.accelerator.resolve(), spec.scheduling.queue, in_place(spec)
    alone = again and topology.slices * topology.hosts_per_slice > 1
    requirements = node_requirements(spec, plan.avoided, settings, plan.unpreferred)
    annotations = requirements.jobset_annotations | kueue.jobset_annotations(queue)
    if queue and queue.topology is not None:
        # Kueue then chooses the nodes, so JobSet must not choose them.
        annotations.pop(EXCLUSIVE_TOPOLOGY_ANNOTATION, None)
        requirements = replace(
            requirements,
            pod_annotations=requirements.pod_annotations | kueue.pod_annotations(queue, topology.hosts_per_slice),
        )
    labels = settings.trainer_pods.labels | spec.scheduling.labels | attempt_labels(run, attempt)
    return jobset_manifest(
        metadata_of(run, names.jobset_name(run.name, attempt), labels | kueue.jobset_labels(queue), annotations),
        topology.slices,
        topology.hosts_per_slice,
        labels,
        {
            "backoffLimit": int(alone),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _REPLACES_ONE_POD if alone else _REPLACES_ALL_PODS},
            "template": pod_template(plan, labels, requirements),
        },
        {
            "network": {
                "enableDNSHostnames": True,
                "subdomain": names.subdomain(run.uid, attempt),
                "publishNotReadyAddresses": True,
            },
            "coordinator": {"replicatedJob": names.REPLICATED_JOB, "jobIndex": 0, "podIndex": 0},
            "failurePolicy": _failure_policy(plan.remaining_restarts // (1 + again + leaves_node(spec)), alone),
            # Kueue would suspend it too. But if Kueue is not installed, a run with a queue must not start without
            # quota.
            "suspend": queue is not None,
        },
    )


def build_workload(plan: WorkloadPlan) -> Manifest:
    """The Workload that asks for the quota of all pods of a run."""
    run = plan.run
    made = build_jobset(JobSetPlan(run, plan.spec, plan.settings, 1, 0, 0))["spec"]["replicatedJobs"][0]
    job = made["template"]["spec"]
    pods = {"count": made["replicas"] * job["parallelism"], "template": {"spec": job["template"]["spec"]}}
    notes = {kueue.ANNOTATION_GENERATION: str(run.generation)}
    return {
        "apiVersion": KUEUE_API_VERSION,
        "kind": "Workload",
        "metadata": metadata_of(run, f"{run.name}-{plan.made_at}", {kueue.LABEL_JOB_UID: run.uid}, notes),
        "spec": {"queueName": plan.queue, "podSets": [pods | {"name": made["name"]}]},
    }


def jobset_manifest(
    metadata: Manifest,
    slices: int,
    hosts_per_slice: int,
    labels: Texts,
    job: Manifest,
    more: Manifest,
) -> Manifest:
    """A JobSet with one Job for each slice, and one pod for each host.

    Args:
        metadata: Its metadata.
        slices: Number of Jobs.
        hosts_per_slice: Pods of a Job.
        labels: Labels of the Jobs.
        job: Further fields of a Job's spec.
        more: Further fields of its own spec.
    """
    hosts = {"parallelism": hosts_per_slice, "completions": hosts_per_slice, "completionMode": "Indexed"}
    jobs = {
        "name": names.REPLICATED_JOB,
        "groupName": "default",
        "replicas": slices,
        "template": {"metadata": {"labels": labels}, "spec": hosts | job},
    }
    spec = {
        "successPolicy": {"operator": "All", "targetReplicatedJobs": [names.REPLICATED_JOB]},
        "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
        "replicatedJobs": [jobs],
    }
    return {"apiVersion": JOBSET_API_VERSION, "kind": "JobSet", "metadata": metadata, "spec": more | spec}


def labels_of(run: RunView) -> Texts:
    """Labels of everything that belongs to a run."""
    return {
        names.LABEL_PART_OF: names.PART_OF,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        names.LABEL_RUN: run.name,
        names.LABEL_RUN_UID: run.uid,
    }


def attempt_labels(run: RunView, attempt: int) -> Texts:
    """Labels of everything that belongs to an attempt."""
    return labels_of(run) | {names.LABEL_ATTEMPT: str(attempt)}


def metadata_of(run: RunView, name: str, labels: Texts, annotations: Texts | None = None) -> Manifest:
    """Metadata of an object that the run owns."""
    metadata: Manifest = {
        "name": name,
        "namespace": run.namespace,
        "labels": labels,
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


def _exit_codes(action: str, *codes: int) -> Manifest:
    values = sorted(map(int, codes))
    return {
        "action": action,
        "onExitCodes": {"containerName": names.TRAINER_CONTAINER, "operator": "In", "values": values},
    }


_REPLACES_ALL_PODS = [
    {"action": "FailJob", "onPodConditions": _DISRUPTED},
    _exit_codes("FailJob", ExitCode.PREEMPTED),
    _exit_codes("FailJob", *FATAL_CODES),
]
_REPLACES_ONE_POD = [
    _exit_codes("FailJob", ExitCode.NOT_REJOINED, *FATAL_CODES),
    {"action": "Ignore", "onPodConditions": _DISRUPTED},
    _exit_codes("Ignore", ExitCode.PREEMPTED, ExitCode.LEAVES_NODE),
    _exit_codes("FailJob", ExitCode.FAILURE),
]


def _failure_policy(max_restarts: int, alone: bool) -> Manifest:
    def rule(name: str, action: str, *patterns: str) -> Manifest:
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
            *(
                [
                    rule(RULE_NOT_REJOINED, _FREE, _exited(ExitCode.NOT_REJOINED)),
                    rule(RULE_FAILED, "RestartJobSet", _exited(ExitCode.FAILURE)),
                ]
                if alone
                else [
                    rule(RULE_PREEMPTED, _FREE, ".*DisruptionTarget.*"),
                    rule(RULE_SAVED, _FREE, _exited(ExitCode.PREEMPTED)),
                ]
            ),
            rule(RULE_REFUSED, "FailJobSet"),
        ],
    }


def _exited(code: ExitCode) -> str:
    """Pattern of the message of a Job that failed with an exit code of a pod."""
    return f".*failed with exit code {int(code)} .*"


def role_of(document: object) -> Role:
    """Whether an object belongs to an attempt, to a probe or a guard, or to what plans the run."""
    match value_at(document, "metadata", "labels", names.LABEL_ROLE):
        case names.ROLE_PROBE:
            return "probe"
        case names.ROLE_GUARD:
            return "guard"
        case names.ROLE_PLAN:
            return "plan"
        case _:
            return "attempt"


def build_probe(plan: ProbePlan) -> Manifest:
    """The JobSet of a probe."""
    wanted = on_slices(plan.spec, max(usable_slices(plan.spec)))
    requirements = node_requirements(wanted, plan.avoided, plan.settings)
    return _short_jobset(
        plan,
        names.probe_name(plan.run.name),
        {names.LABEL_ROLE: names.ROLE_PROBE},
        requirements.jobset_annotations,
        (plan.slices, wanted.accelerator.resolve().hosts_per_slice),
        {},
        {
            "nodeSelector": requirements.node_selector,
            "tolerations": requirements.tolerations,
            "affinity": requirements.affinity,
            "priorityClassName": plan.settings.probes.priority_class.name,
        },
        {},
        {"name": _PROBE_CONTAINER, "command": _PAUSE, "resources": requirements.resources},
    )


def build_guard(plan: GuardPlan) -> Manifest:
    """The JobSet of a guard: a pod that needs nothing of its node, and stays there whatever taints the node has.

    It is bound without the scheduler, which would keep it away from the run's pod as it keeps that pod away from it. It
    has the run's priority, so that the scheduler does not evict it to make room for that pod.
    """
    return _short_jobset(
        plan,
        names.guard_name(plan.run.name, plan.node),
        {names.LABEL_ROLE: names.ROLE_GUARD},
        {},
        (1, 1),
        {},
        {
            "nodeName": plan.node,
            "tolerations": [{"operator": "Exists"}],
            "priorityClassName": plan.spec.scheduling.priority_class_name,
        },
        {},
        # Quotas want amounts. Memory is a limit only: the pod must fit on a full node.
        {"name": "guard", "command": _PAUSE, "resources": {"requests": _NOTHING, "limits": _LITTLE}},
    )


def build_planner(plan: PlannerPlan) -> Manifest:
    """The JobSet that plans a run: one pod without accelerators, which compiles the step and reports in its
    termination message.

    The run document is in an annotation of the pod, so that it needs no further object.
    """
    planning = plan.settings.planning
    amounts = {"cpu": planning.cpu} | ({} if planning.memory == NO_MEMORY else {"memory": planning.memory})
    document = f"{names.RUN_DOCUMENT_DIRECTORY}/{names.RUN_DOCUMENT_KEY}"
    annotated = {"fieldPath": f"metadata.annotations['{names.ANNOTATION_DOCUMENT}']"}
    return _short_jobset(
        plan,
        names.plan_name(plan.run.name),
        {names.LABEL_ROLE: names.ROLE_PLAN, names.LABEL_PLAN: plan.hash},
        {},
        (1, 1),
        {
            # A pod that a node rejected or lost is replaced after a growing pause; only the program's own end fails.
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": _DISRUPTED},
                    {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
                ]
            },
            "activeDeadlineSeconds": planning.seconds,
        },
        {
            "volumes": [
                {"name": "run", "downwardAPI": {"items": [{"path": names.RUN_DOCUMENT_KEY, "fieldRef": annotated}]}},
                {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE_LIMIT}},
            ]
        },
        {names.ANNOTATION_DOCUMENT: dump(run_document(plan.run, plan.spec))},
        {
            "name": names.TRAINER_CONTAINER,
            "command": ["halcyon", "plan"],
            "args": [document, "--report", TERMINATION_LOG],
            "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 a mount point inside the pod
            "resources": {"requests": amounts, "limits": {name: amounts[name] for name in amounts if name == "memory"}},
            "terminationMessagePath": TERMINATION_LOG,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": "run", "mountPath": names.RUN_DOCUMENT_DIRECTORY, "readOnly": True},
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            ],
        },
    )


def _short_jobset(
    plan: ProbePlan | GuardPlan | PlannerPlan,
    name: str,
    role: Texts,
    annotations: Texts,
    size: tuple[int, int],
    job: Manifest,
    pod: Manifest,
    pod_annotations: Texts,
    container: Manifest,
) -> Manifest:
    """A JobSet whose pods save nothing, so they may end at once.

    Args:
        plan: The run.
        name: Its name.
        role: Labels that say what it is for.
        annotations: Its annotations.
        size: Number of Jobs, and of pods of each.
        job: Further fields of a Job's spec.
        pod: Further fields of a pod's spec; empty ones are left out.
        pod_annotations: Annotations of the pods.
        container: Further fields of the container.
    """
    run, spec, settings = plan.run, plan.spec, plan.settings
    labels = settings.trainer_pods.labels | spec.scheduling.labels | labels_of(run) | role
    pod_context, container_context = probe_security(settings.trainer_pods, spec.accelerator)
    container |= {
        "image": spec.image or settings.trainer_image,
        "imagePullPolicy": spec.image_pull_policy,
        "securityContext": container_context,
    }
    pod |= {
        # The Job decides whether there is a new pod, which the scheduler queues again; no container restarts in place.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_context,
        "containers": [container],
        "imagePullSecrets": [{"name": name} for name in settings.trainer_pods.image_pull_secrets],
    }
    template = {
        "metadata": {"labels": labels} | ({"annotations": pod_annotations} if pod_annotations else {}),
        "spec": {name: value for name, value in pod.items() if value or value is False},
    }
    return jobset_manifest(
        metadata_of(run, name, labels, annotations),
        *size,
        labels,
        job | {"backoffLimit": _REPLACEMENTS, "template": template},
        _WITHOUT_NETWORK,
    )


def build(plan: Plan) -> Manifest:
    """The object that a plan describes."""
    match plan:
        case WorkloadPlan():
            return build_workload(plan)
        case ConfigMapPlan():
            return build_config_map(plan)
        case JobSetPlan():
            return build_jobset(plan)
        case ProbePlan():
            return build_probe(plan)
        case GuardPlan():
            return build_guard(plan)
        case PlannerPlan():
            return build_planner(plan)
