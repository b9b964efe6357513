"""``spec.recovery``, ``spec.scheduling`` and ``spec.telemetry``: how the run recovers, is placed and is monitored."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from halcyon_api.base import ApiModel, ObjectName, Rule, RuledModel, Seconds, shows
from halcyon_api.profile_requests import USUAL_PROFILED_STEPS, ProfiledSteps
from halcyon_api.spec.accelerator import MAX_SLICES
from halcyon_api.spec.divergence import DivergenceSpec
from halcyon_api.spec.queue import QueueSpec
from halcyon_api.spec.trackers import TrackersSpec
from halcyon_api.spec.watch import WatchSpec

LabelKey = Annotated[
    str,
    StringConstraints(
        max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    ),
]
"""Key of a label or taint, such as ``nvidia.com/gpu.product``."""
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
"""Value of a label."""
_LABEL_KEY = TypeAdapter(LabelKey)
_RESERVED = re.compile(r"(.+\.)?(kubernetes\.io|(x-)?k8s\.io|halcyon\.dev)/.*|job-name|controller-uid")
"""Keys of labels by which Kubernetes, JobSet, Kueue and Halcyon find objects."""

SliceCount = Annotated[int, Field(ge=1, le=MAX_SLICES)]


class ElasticSpec(RuledModel):
    """The range of slices on which the run may train.

    Batch, order of the data and (except for rounding) losses stay the same.
    """

    min_slices: SliceCount = Field(description="Minimum number of slices. The run waits if fewer find nodes.")
    max_slices: SliceCount | None = Field(
        default=None,
        description="Maximum number of slices, used where there is room. The run begins with "
        "`accelerator.slices`, which is "
        "the default.",
    )
    shrink_after_seconds: Seconds = Field(
        default=300,
        description="Continue with the slices that have nodes after the others have waited this long for nodes.",
    )
    grow_after_seconds: Seconds = Field(
        default=120, description="Search for room for more slices after the run has trained this long on fewer."
    )

    rules: ClassVar = (
        Rule(
            "!has(self.maxSlices) || self.minSlices <= self.maxSlices",
            lambda self: self.max_slices is None or self.min_slices <= self.max_slices,
            "minSlices must not be greater than maxSlices",
            ".minSlices",
            shows("minSlices", "maxSlices"),
        ),
    )


class BadNodesSpec(ApiModel):
    """When a node is avoided. A node is blamed if the first failure in a process group of several nodes was on it."""

    blames: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2,
        description="Avoid a node after this many blames, if it has more than twice as many as "
        "any other node. 0: never.",
    )
    max_nodes: Annotated[int, Field(ge=1, le=16)] = Field(
        default=2, description="Maximum number of nodes avoided at a time."
    )
    expire_seconds: Seconds = Field(default=86_400, description="Time for which a blame counts.")
    give_up_seconds: Seconds = Field(
        default=300,
        description="Stop avoiding nodes after pods have waited this long for a node while some nodes are avoided.",
    )


class RecoverySpec(ApiModel):
    """What happens when something fails. Preemptions are not counted; failures have a budget."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10,
        description=(
            "Restarts after failures in a row without a new checkpoint. One more failure stops the run as `Stalled`. "
            "Preemptions do not "
            "count."
        ),
    )
    grace_period_seconds: Seconds = Field(
        default=30, description="Time between a pod's preemption notice and its end, for the last save."
    )
    step_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=60,
        description=(
            "A step counts as hung when it takes longer than this and longer than ten times the 99th percentile of "
            "earlier steps of its "
            "size."
        ),
    )
    divergence: DivergenceSpec = Field(
        default_factory=DivergenceSpec, description="The reaction to a loss that is not finite or jumps."
    )
    elastic: ElasticSpec | None = Field(
        default=None,
        description="Continue with fewer slices while there is no room for all. Default: wait for all slices.",
    )
    bad_nodes: BadNodesSpec = Field(default_factory=BadNodesSpec, description="When a node is avoided.")


class TolerationSpec(ApiModel):
    """A node taint that the pods tolerate."""

    key: LabelKey = Field(description="Key of the taint.")
    value: LabelValue | None = Field(default=None, description="Value of the taint. Default: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Default: any."
    )


def _check_key(key: str, where: str = "") -> None:
    try:
        _LABEL_KEY.validate_python(key)
    except ValidationError:
        raise ValueError(f"{key[:80]!r} is no key of a label; write NAME or DOMAIN/NAME{where}") from None


def check_pod_label(key: str) -> None:
    """Check the key of a label that pods of runs are to have.

    Raises:
        ValueError: It is no key, or one of Kubernetes or Halcyon.
    """
    _check_key(key)
    if _RESERVED.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is a label of Kubernetes or Halcyon; take another key")


class SchedulingSpec(ApiModel):
    """Placement and priority of the pods."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        default={},
        description=(
            "Labels that the nodes must have, in addition to those of the accelerator type. They choose nodes of type "
            "`nvidia` or `cpu`, "
            "on any Kubernetes."
        ),
    )
    tolerations: Annotated[list[TolerationSpec], Field(max_length=16)] = Field(
        default=[], description="Taints that the pods tolerate, in addition to those of the accelerator type."
    )

    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    queue: QueueSpec | None = Field(
        default=None,
        description="Wait in a Kueue queue until there is quota for all slices at once. "
        "Default: create the pods at once.",
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount whose cloud identity the pods have. Default: the "
        "namespace's `default`. No token is "
        "mounted.",
    )

    labels: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        default={}, description="Labels of the pods and their Jobs, of keys that the operator's owner allows."
    )

    @field_validator("labels")
    @classmethod
    def _pod_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key in labels:
            check_pod_label(key)
        return labels

    @field_validator("node_selector")
    @classmethod
    def _label_keys(cls, labels: dict[str, str]) -> dict[str, str]:
        for key in labels:
            _check_key(key, ", as the nodes have it")
        return labels


class ProfileSpec(ApiModel):
    """A window of steps that every process profiles. The files are below `profiles/` in the checkpoint root."""

    at_step: Annotated[int, Field(ge=2, le=1_000_000_000)] = Field(
        description="First step of the window, counted from 1."
    )
    steps: ProfiledSteps = Field(default=USUAL_PROFILED_STEPS, description="Number of steps.")


class TelemetrySpec(ApiModel):
    """How the run is monitored."""

    port: Annotated[int, Field(ge=1024, le=65_535)] = Field(
        default=9400, description="Port of `/metrics`, `/status` and `/healthz` in every trainer pod."
    )
    status_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=5, description="Seconds between the operator's reads of the trainer's progress into the run's status."
    )
    trackers: TrackersSpec | None = Field(default=None, description="Other programs that show the numbers of the run.")
    profile: ProfileSpec | None = Field(default=None, description="Profile a window of steps.")
    watch: WatchSpec | None = Field(default=None, description="Watch each parameter at intervals. Default: not at all.")
