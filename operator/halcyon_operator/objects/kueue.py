"""Labels and annotations that put a JobSet into a Kueue queue. Pure.

A JobSet with the label of a queue is created suspended. Kueue makes one Workload for all its slices, and ends the
suspension when there is quota for all of them and every admission check has passed. Until then the JobSet has no pods;
without Kueue it never gets any. When Kueue takes the quota back, it suspends the JobSet again and writes the reason
into the Workload. Kueue also writes node selectors, tolerations and labels of the flavor into the pod template of the
suspended JobSet, so the operator never compares that template with its own."""

from halcyon_api.spec.scheduling import QueueSpec
from halcyon_operator.model.decision import Texts

API_VERSION = "kueue.x-k8s.io/v1beta2"
WORKLOADS = "workloads"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of a Workload with the uid of its JobSet."""
LABEL_ORIGIN = "kueue.x-k8s.io/multikueue-origin"
"""Label of what MultiKueue has made in a worker cluster."""
PREBUILT = "kueue.x-k8s.io/prebuilt-workload-name"
"""Annotation of a run that MultiKueue has made, with the name of its Workload."""
ANNOTATION_GENERATION = "halcyon.dev/generation"
PRIORITY_BOOST = "kueue.x-k8s.io/priority-boost"
"""Annotation of a Workload with a number that Kueue adds to its priority."""
_TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"
_SLICE_SIZE = "kueue.x-k8s.io/podset-slice-size"
_MAX_RUN_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"


def jobset_labels(queue: QueueSpec | None) -> Texts:
    """Labels that put a JobSet into a queue; none without a queue."""
    if queue is None:
        return {}
    return {LABEL_QUEUE: queue.name} | (
        {LABEL_PRIORITY_CLASS: queue.priority_class} if queue.priority_class is not None else {}
    )


def jobset_annotations(queue: QueueSpec | None) -> Texts:
    """Annotations that Kueue passes to a ProvisioningRequest."""
    if queue is None or queue.max_run_duration_seconds is None:
        return {}
    return {_MAX_RUN_DURATION: str(queue.max_run_duration_seconds)}


def pod_annotations(queue: QueueSpec | None, hosts_per_slice: int) -> Texts:
    """Annotations for how close together Kueue places the pods."""
    topology = queue and queue.topology
    if topology is None:
        return {}
    wanted = {"required": topology.required, "preferred": topology.preferred, "slice-required": topology.slice}
    annotations = {_TOPOLOGY.format(how): level for how, level in wanted.items() if level is not None}
    return annotations | ({_SLICE_SIZE: str(hosts_per_slice)} if topology.slice is not None else {})
