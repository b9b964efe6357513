"""The environment variables that the operator sets in every trainer pod. Writer and reader both use these names.

JAX reads neither a process count nor a process id from the environment, and its own detection is wrong for more than
one slice, so both are defined here: the count directly, the id as job index x hosts per slice + completion index. The
trainer computes the id, because a pod template cannot do arithmetic.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeInt, ValidationError

from halcyon_api.base import ApiModel, AtLeastOne
from halcyon_api.spec.mesh import ResolvedMesh

PREFIX = "HALCYON_"

JOB_INDEX = f"{PREFIX}JOB_INDEX"
COMPLETION_INDEX = f"{PREFIX}COMPLETION_INDEX"
RESTART = f"{PREFIX}RESTART"
RUN_DOCUMENT = f"{PREFIX}RUN_DOCUMENT"
SAVE_TOKEN = f"{PREFIX}SAVE_TOKEN"

FROM_POD = (JOB_INDEX, COMPLETION_INDEX, RESTART)
"""Variables filled from the pod's own labels and annotations, not from the template."""


class InvalidEnvironment(ValueError):
    """A variable is missing or malformed."""


class PodEnvironment(ApiModel):
    """The parsed environment of a trainer pod. Each field is the variable ``HALCYON_<FIELD>``."""

    run_document: str
    """Path of the mounted run.yaml."""
    run_uid: str
    """Uid of the TrainingRun."""
    namespace: str
    """Namespace of the TrainingRun."""
    attempt: NonNegativeInt
    """Attempt, assigned by the operator; 0, outside a cluster: the one after the last one in the checkpoint root."""
    restart: NonNegativeInt
    """JobSet restart inside the attempt."""
    job_index: NonNegativeInt
    """Index of the slice."""
    completion_index: NonNegativeInt
    """Index of the host in its slice."""
    slices: AtLeastOne
    """Slices of the run."""
    hosts_per_slice: AtLeastOne
    """Hosts, and so processes, of a slice."""
    devices_per_host: AtLeastOne
    """JAX devices of a host."""
    coordinator: str
    """host:port of JAX's coordination service."""
    mesh: ResolvedMesh
    """Mesh axes and sizes, as JSON."""
    resume_step: NonNegativeInt
    """Newest committed step that the operator knew when it created the attempt."""
    termination_log: str = "/dev/termination-log"
    """Where the termination report is written."""
    grace_seconds: NonNegativeInt | None = None
    """Time from the pod's preemption notice to its end, if the operator knows it."""
    save_token: str = ""
    """Token that a checkpoint request must carry; empty: all requests are rejected."""
    restarts_left: NonNegativeInt | None = None
    """Restarts after failures that the attempt may have, where processes restart in place."""
    leaves_node: NonNegativeInt | None = None
    """1: a pod whose process fails twice without a checkpoint ends, and its replacement may avoid the node."""

    memory: str | None = None
    """Folder in the pod's memory, for snapshots."""

    @property
    def process_count(self) -> int:
        """Processes of the run."""
        return self.slices * self.hosts_per_slice

    @property
    def process_index(self) -> int:
        """Index of this process in its process group."""
        return self.job_index * self.hosts_per_slice + self.completion_index

    def variables(self) -> dict[str, str]:
        """Names and values of the pod's variables."""
        values = self.model_dump(mode="json")
        values["mesh"] = self.mesh.model_dump_json(exclude_defaults=True)  # an older trainer does not know newer axes
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if value is not None}


def parse_environment(environ: Mapping[str, str]) -> PodEnvironment | None:
    """The environment of a trainer pod; None outside a pod of Halcyon.

    Raises:
        InvalidEnvironment: A variable is missing or malformed; the message names it.
    """
    if RUN_DOCUMENT not in environ:
        return None
    values: dict[str, Any] = {
        name: environ[variable]
        for name in PodEnvironment.model_fields
        if (variable := f"{PREFIX}{name.upper()}") in environ
    }
    try:
        if "mesh" in values:
            values["mesh"] = ResolvedMesh.model_validate_json(values["mesh"])
        return PodEnvironment.model_validate(values, strict=False)
    except ValidationError as error:
        faults = (f"{PREFIX}{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors())
        raise InvalidEnvironment("; ".join(faults)) from None
