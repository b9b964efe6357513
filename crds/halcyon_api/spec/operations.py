"""``spec.recovery``, ``spec.scheduling`` and ``spec.telemetry``: how the run is kept alive, placed and watched."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from halcyon_api.base import ApiModel, ObjectName, Rule, Seconds, shows
from halcyon_api.spec.accelerator import MAX_SLICES
from halcyon_api.spec.divergence import DivergenceSpec
from halcyon_api.spec.queue import QueueSpec

LabelKey = Annotated[
    str, StringConstraints(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
"""Key of a label or taint, such as ``nvidia.com/gpu.product``."""
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
"""Value of a label."""
_LABEL_KEY = TypeAdapter(LabelKey)

SliceCount = Annotated[int, Field(ge=1, le=MAX_SLICES)]


class ElasticSpec(ApiModel):
    """Between which numbers of slices the run may be computed. Batch, order of the data and (to rounding) losses stay the same."""

    min_slices: SliceCount = Field(description="The run waits rather than go on with fewer.")
    max_slices: SliceCount | None = Field(
        default=None,
        description="The run grows up to so many where there is room. Default: `accelerator.slices`, with which it begins in any case.",
    )
    shrink_after_seconds: Seconds = Field(
        default=300, description="Go on with the slices that have found nodes when the others have found none for so long."
    )
    grow_after_seconds: Seconds = Field(
        default=120, description="Look for room for more slices once the run has trained on fewer for so long."
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
    """When a node is avoided. It is blamed when the first thing that went wrong in a world of several nodes was a failure of its pod."""

    blames: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2,
        description="Avoid a node after so many blames, if that is more than twice as many as any other node has. 0: never avoid one.",
    )
    max_nodes: Annotated[int, Field(ge=1, le=16)] = Field(default=2, description="At most so many nodes are avoided at a time.")
    expire_seconds: Seconds = Field(default=86_400, description="A blame counts for so long.")
    give_up_seconds: Seconds = Field(
        default=300, description="Take all nodes back when pods have found no node for so long while some are avoided."
    )


class RecoverySpec(ApiModel):
    """What happens when something fails. Preemptions are free; failures have a budget."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10,
        description="Failures (not preemptions) in a row without a new checkpoint after which the run stops as `Stalled`.",
    )
    grace_period_seconds: Seconds = Field(
        default=30, description="Time a pod has between the notice of its end and its end, for a last checkpoint."
    )
    step_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=60,
        description=(
            "A step counts as hung when it takes longer than this, and than ten times the 99th percentile of those of its size before it."
        ),
    )
    divergence: DivergenceSpec = Field(default_factory=DivergenceSpec, description="What happens when the loss is no number, or jumps.")
    elastic: ElasticSpec | None = Field(
        default=None, description="Go on with fewer slices while there is no room for all. Default: the run waits for all its slices."
    )
    bad_nodes: BadNodesSpec = Field(default_factory=BadNodesSpec, description="When a node is avoided.")


class TolerationSpec(ApiModel):
    """One taint of nodes on which the pods may be placed all the same."""

    key: LabelKey = Field(description="Key of the taint.")
    value: LabelValue | None = Field(default=None, description="Value of the taint. Default: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Default: any."
    )


class SchedulingSpec(ApiModel):
    """Where and with which rank the pods are placed."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        default={},
        description=(
            "Labels that the nodes must bear besides those that the accelerator's type asks for: how nodes of type `nvidia` or `cpu` are "
            "chosen, on any Kubernetes."
        ),
    )
    tolerations: Annotated[list[TolerationSpec], Field(max_length=16)] = Field(
        default=[], description="Taints that the pods tolerate besides those that nodes of the accelerator's type bear."
    )

    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    queue: QueueSpec | None = Field(
        default=None,
        description="Wait in a queue of Kueue until there is quota for all slices at once. Default: the pods are made at once.",
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount whose cloud identity the pods bear. Default: the namespace's `default`. No token is mounted.",
    )

    @field_validator("node_selector")
    @classmethod
    def _label_keys(cls, labels: dict[str, str]) -> dict[str, str]:
        for key in labels:
            try:
                _LABEL_KEY.validate_python(key)
            except ValidationError:
                raise ValueError(f"{key[:80]!r} is no key of a label; write NAME or DOMAIN/NAME, as the nodes have it") from None
        return labels


class TelemetrySpec(ApiModel):
    """How the run is watched."""

    port: Annotated[int, Field(ge=1024, le=65_535)] = Field(
        default=9400, description="Port of `/metrics`, `/status` and `/healthz` in every trainer pod."
    )
    status_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=5, description="How often the operator reads the trainer's progress into the run's status."
    )
