"""Labels and annotations by which Kueue takes a JobSet into a queue. Pure.

A JobSet with the label of a queue is made suspended. Kueue makes a Workload for it, with all its slices as one whole, and ends the
suspension when there is quota for all of them and every admission check has passed; until then it has no pods, and without Kueue it never
gets any. When Kueue takes the quota back it suspends the JobSet again and says why in the Workload. It also writes node selectors,
tolerations and labels of the flavor into the suspended JobSet's pod template; the operator never compares those with what it made.
"""

from __future__ import annotations

from halcyon_api.spec.queue import QueueSpec

API_VERSION = "kueue.x-k8s.io/v1beta2"
WORKLOADS = "workloads"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Bears the uid of the JobSet that a Workload stands for."""
_TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"
_SLICE_SIZE = "kueue.x-k8s.io/podset-slice-size"
_MAX_RUN_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"


def jobset_labels(queue: QueueSpec | None) -> dict[str, str]:
    """What puts a JobSet into a queue; nothing without one."""
    if queue is None:
        return {}
    return {LABEL_QUEUE: queue.name} | ({LABEL_PRIORITY_CLASS: queue.priority_class} if queue.priority_class is not None else {})


def jobset_annotations(queue: QueueSpec | None) -> dict[str, str]:
    """What Kueue passes on to a ProvisioningRequest."""
    if queue is None or queue.max_run_duration_seconds is None:
        return {}
    return {_MAX_RUN_DURATION: str(queue.max_run_duration_seconds)}


def pod_annotations(queue: QueueSpec | None, hosts_per_slice: int) -> dict[str, str]:
    """How close together Kueue places the pods."""
    topology = queue.topology if queue is not None else None
    if topology is None:
        return {}
    wanted = {"required": topology.required, "preferred": topology.preferred, "slice-required": topology.slice}
    annotations = {_TOPOLOGY.format(how): level for how, level in wanted.items() if level is not None}
    return annotations | ({_SLICE_SIZE: str(hosts_per_slice)} if topology.slice is not None else {})
