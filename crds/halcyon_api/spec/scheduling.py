"""``spec.scheduling``: placement and priority of the pods, and the Kueue queue in which the run waits until there is
quota for all its slices at once.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from halcyon_api.base import ApiModel, ObjectName, Rule, RuledModel, optional

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

QueueName = Annotated[
    str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)
]
"""Name of a Kueue object. It is the value of a label, so it has at most 63 characters."""


class QueueTopologySpec(RuledModel):
    """How close together the pods must be. Each label is a level of the Topology of Kueue's ResourceFlavor."""

    required: LabelKey | None = None
    """The whole run on nodes that share one value of this label. The run waits until such nodes have room."""
    preferred: LabelKey | None = None
    """As `required` if there is room, else with as few values as possible."""
    slice: LabelKey | None = None
    """The same for each slice. May be combined with `required` or `preferred`."""

    rules: ClassVar = (
        Rule(
            "!has(self.required) || !has(self.preferred)",
            "set either required or preferred for the whole run, not both",
            ".preferred",
        ),
        Rule(
            "has(self.required) || has(self.preferred) || has(self.slice)",
            "set required, preferred or slice to the node label that is a level of Kueue's Topology",
        ),
    )


class QueueSpec(ApiModel):
    """The Kueue queue in which the run waits for quota. All slices are admitted together, or none."""

    name: QueueName
    """LocalQueue in the run's namespace."""
    priority_class: QueueName | None = None
    """WorkloadPriorityClass: the run's priority in the queue. Default: the priority of `priorityClassName`."""
    topology: QueueTopologySpec | None = None
    """How close together the pods must be. Default: on any nodes of the queue's flavor."""
    max_run_duration_seconds: int | None = optional(ge=600, le=31_536_000)
    """For queues that request nodes with a ProvisioningRequest: how long the nodes are needed. Default: as long as the
    provider gives them. The run continues on the next ones."""


class TolerationSpec(ApiModel):
    """A node taint that the pods tolerate."""

    key: LabelKey
    """Key of the taint."""
    value: LabelValue | None = None
    """Value of the taint. Default: any."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: any."""


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


def check_node_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels, if their keys are those of labels.

    Raises:
        ValueError: One is not.
    """
    for key in labels:
        _check_key(key, ", as the nodes have it")
    return labels


class SchedulingSpec(ApiModel):
    """Placement and priority of the pods."""

    node_selector: dict[str, LabelValue] = Field(default={}, max_length=16)
    """Labels that the nodes must have beside those of the accelerator type. They choose nodes of type `nvidia`
    or `cpu`, on any Kubernetes."""
    tolerations: list[TolerationSpec] = Field(default=[], max_length=16)
    """Taints that the pods tolerate beside those of the accelerator type."""

    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    queue: QueueSpec | None = None
    """Wait in a Kueue queue until there is quota for all slices at once. Default: create the pods at once."""
    service_account_name: ObjectName | None = None
    """ServiceAccount whose cloud identity the pods have. Default: the namespace's `default`. No token is mounted."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=16)
    """Labels of the pods and their Jobs, of keys that the operator's owner allows."""

    @field_validator("labels")
    @classmethod
    def _pod_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key in labels:
            check_pod_label(key)
        return labels

    @field_validator("node_selector")
    @classmethod
    def _label_keys(cls, labels: dict[str, str]) -> dict[str, str]:
        return check_node_labels(labels)
