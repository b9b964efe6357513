"""Names of all objects that Halcyon creates in a cluster, and the limit of their length.

A Kubernetes label holds 63 characters, and two texts that contain a run's name must fit into one: the name of a pod,
``RUN-ATTEMPT-s-JOB-POD-RANDOM``, and the coordinator's address that JobSet puts on every pod,
``RUN-ATTEMPT-s-0-0.SUBDOMAIN``. With at most 256 slices (3 digits), 10,000 hosts a slice (4 digits) and 99,999 attempts
(5 digits) a run's name may have 40 characters, and the subdomain 10.
"""

import base64
import hashlib

MAX_RUN_NAME_LENGTH = 40
MAX_ATTEMPT = 99_999

REPLICATED_JOB = "s"
"""Name of the JobSet's replicated job: one job for each slice."""
TRAINER_CONTAINER = "trainer"
COORDINATOR_PORT = 8476
"""Port of JAX's coordination service in the first process."""
AGENT_PORT = 8477
"""Port of the supervisor in the first process's pod."""
RUN_DOCUMENT_KEY = "run.yaml"
RUN_DOCUMENT_DIRECTORY = "/etc/halcyon"

MEMORY_DIRECTORY = "/var/halcyon/memory"
"""Where snapshots of the state lie in a pod's memory."""

LABEL_RUN = "halcyon.dev/run"
LABEL_RUN_UID = "halcyon.dev/run-uid"
LABEL_ATTEMPT = "halcyon.dev/attempt"
LABEL_ROLE = "halcyon.dev/role"
ROLE_PROBE = "probe"
"""Role of the pods that test for room for more slices."""
ROLE_PLAN = "plan"
"""Role of the pod that compiles the step before an attempt."""
ROLE_GUARD = "guard"
"""Role of the pod that keeps the run's pods off its node."""
LABEL_PLAN = "halcyon.dev/plan"
"""On a planning pod: hash of the part of the spec that decides its plan."""
ANNOTATION_DOCUMENT = "halcyon.dev/run-document"
"""On a planning pod: the run document."""
LABEL_PART_OF = "app.kubernetes.io/part-of"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
ANNOTATION_CHECKPOINT = "halcyon.dev/checkpoint"
"""On a run: a new value requests a checkpoint."""
ANNOTATION_RESTART = "halcyon.dev/restart"
"""On a run: a new value requests a restart: save a checkpoint, delete the pods, continue with new ones."""
ANNOTATION_REFRESH_DEFAULTS = "halcyon.dev/refresh-defaults"
"""On a run: a new value makes the run take its defaults again, as they are now."""
LABEL_SWEEP = "halcyon.dev/sweep"
"""On a run that was rendered from a sweep: the name of the sweep."""
ANNOTATION_SWEEP = "halcyon.dev/sweep-values"
"""On a run that was rendered from a sweep: its values by their paths, as JSON."""
PART_OF = "halcyon"
MANAGED_BY = "halcyon-operator"
FIELD_MANAGER = "halcyon-operator"
PLUGIN_FIELD_MANAGER = "kubectl-halcyon"

JOBSET_UID_LABEL = "jobset.sigs.k8s.io/jobset-uid"
JOBSET_JOB_INDEX = "jobset.sigs.k8s.io/job-index"
JOBSET_RESTART = "jobset.sigs.k8s.io/restart-attempt"
JOB_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


def jobset_name(run: str, attempt: int) -> str:
    """Name of the JobSet (and ConfigMap) of one attempt."""
    return f"{run}-{attempt}"


def is_attempt_name(run: str, name: str) -> bool:
    """Whether `name` is the JobSet name of an attempt of the run."""
    number = name.removeprefix(f"{run}-")
    return (
        number.isascii()
        and number.isdigit()
        and len(number) <= len(str(MAX_ATTEMPT))
        and name == jobset_name(run, int(number))
    )


def probe_name(run: str) -> str:
    """Name of the JobSet that tests for room for more slices.

    No attempt has this name, and no attempt's name is longer.
    """
    return f"{run}-probe"


def plan_name(run: str) -> str:
    """Name of the JobSet that plans a run. No attempt has this name, and no attempt's name is longer."""
    return f"{run}-plan"


def guard_name(run: str, node: str) -> str:
    """Name of the JobSet whose pod keeps a run's pods off a node: 9 characters longer than the run's."""
    return f"{run}-g{hashlib.sha256(node.encode()).hexdigest()[:7]}"


def subdomain(run_uid: str, attempt: int) -> str:
    """Name of the headless Service of one attempt: a DNS label of 10 characters, different for every run and
    attempt.
    """
    digest = hashlib.sha256(f"{run_uid}/{attempt}".encode()).digest()
    return "h" + base64.b32encode(digest).decode().lower()[:9]


def job_name(run: str, attempt: int, slice_index: int) -> str:
    """Name of the Job that the JobSet makes for a slice."""
    return f"{jobset_name(run, attempt)}-{REPLICATED_JOB}-{slice_index}"


def hostname(run: str, attempt: int, slice_index: int, host_index: int) -> str:
    """Host name of a trainer pod inside its subdomain."""
    return f"{job_name(run, attempt, slice_index)}-{host_index}"


def coordinator_address(run: str, run_uid: str, attempt: int, namespace: str, cluster_domain: str) -> str:
    """Full DNS name and port of process 0, such as ``demo-1-s-0-0.habc.default.svc.cluster.local:8476``."""
    host = hostname(run, attempt, 0, 0)
    return f"{host}.{subdomain(run_uid, attempt)}.{namespace}.svc.{cluster_domain}:{COORDINATOR_PORT}"
