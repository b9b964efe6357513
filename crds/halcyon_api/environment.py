"""The environment variables that the operator sets in every trainer pod. Writer and reader both use these names.

JAX reads neither a process count nor a process id from the environment, and its own detection is wrong for more than
one slice, so both are defined here: the count directly, the id as job index x hosts per slice + completion index. The
trainer computes the id, because a pod template cannot do arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from halcyon_api.base import ApiModel, optional
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

    run_document: str = Field(description="Path of the mounted run.yaml.")
    run_uid: str = Field(description="Uid of the TrainingRun.")
    namespace: str = Field(description="Namespace of the TrainingRun.")
    attempt: int = Field(ge=1, description="Attempt, assigned by the operator.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    job_index: int = Field(ge=0, description="Index of the slice.")
    completion_index: int = Field(ge=0, description="Index of the host in its slice.")
    slices: int = Field(ge=1, description="Slices of the run.")
    hosts_per_slice: int = Field(ge=1, description="Hosts, and so processes, of a slice.")
    devices_per_host: int = Field(ge=1, description="JAX devices of a host.")
    coordinator: str = Field(description="host:port of JAX's coordination service.")
    mesh: ResolvedMesh = Field(description="Mesh axes and sizes, as JSON.")
    resume_step: int = Field(
        ge=0, description="Newest committed step that the operator knew when it created the attempt."
    )
    termination_log: str = Field(default="/dev/termination-log", description="Where the termination report is written.")
    grace_seconds: int | None = optional(
        "Time from the pod's preemption notice to its end, if the operator knows it.", ge=0
    )
    save_token: str = Field(
        default="", description="Token that a checkpoint request must carry; empty: all requests are rejected."
    )

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
