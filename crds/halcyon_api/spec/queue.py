"""``spec.scheduling.queue``: the run waits in a Kueue queue until there is quota for all its slices at once."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, Rule, RuledModel

QueueName = Annotated[
    str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)
]
"""Name of a Kueue object. It is the value of a label, so it has at most 63 characters."""
NodeLabel = Annotated[
    str,
    StringConstraints(
        max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    ),
]
"""Key of a node label that is a level of Kueue's Topology."""


class QueueTopologySpec(RuledModel):
    """How close together the pods must be. Each label is a level of the Topology of Kueue's ResourceFlavor."""

    required: NodeLabel | None = Field(
        default=None,
        description="The whole run on nodes that share one value of this label. The run waits "
        "until such nodes have room.",
    )
    preferred: NodeLabel | None = Field(
        default=None,
        description="The whole run on nodes that share one value of this label if possible, else "
        "as few values as possible.",
    )
    slice: NodeLabel | None = Field(
        default=None,
        description="Each slice on nodes that share one value of this label. May be combined with "
        "`required` or `preferred`.",
    )

    rules: ClassVar = (
        Rule(
            "!has(self.required) || !has(self.preferred)",
            lambda self: self.required is None or self.preferred is None,
            "set either required or preferred for the whole run, not both",
            ".preferred",
        ),
        Rule(
            "has(self.required) || has(self.preferred) || has(self.slice)",
            lambda self: any(level is not None for level in (self.required, self.preferred, self.slice)),
            "set required, preferred or slice to the node label that is a level of Kueue's Topology",
        ),
    )


class QueueSpec(ApiModel):
    """The Kueue queue in which the run waits for quota. All slices are admitted together, or none."""

    name: QueueName = Field(description="LocalQueue in the run's namespace.")
    priority_class: QueueName | None = Field(
        default=None,
        description="WorkloadPriorityClass: the run's priority in the queue. Default: the "
        "priority of `priorityClassName`.",
    )
    topology: QueueTopologySpec | None = Field(
        default=None, description="How close together the pods must be. Default: on any nodes of the queue's flavor."
    )
    max_run_duration_seconds: Annotated[int, Field(ge=600, le=31_536_000)] | None = Field(
        default=None,
        description=(
            "For queues that request nodes with a ProvisioningRequest: how long the nodes are needed. Default: as long "
            "as the provider "
            "gives them. When the nodes end, the run continues on the next ones."
        ),
    )
