"""``spec.scheduling.queue``: the run waits in a queue of Kueue until there is quota for all of it at once."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, Rule

QueueName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)]
"""Name of an object of Kueue's that is named in a label, and so is no longer than one."""
NodeLabel = Annotated[
    str, StringConstraints(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
"""Key of a label of nodes that is a level of Kueue's Topology."""


class QueueTopologySpec(ApiModel):
    """How close together the pods must be, by node labels that are levels of the Topology of Kueue's ResourceFlavor."""

    required: NodeLabel | None = Field(
        default=None,
        description="The whole run within nodes that have one value of this label; it waits until there are such, with room.",
    )
    preferred: NodeLabel | None = Field(
        default=None, description="The whole run within one value of this label where that can be had, else within as few as can be."
    )
    slice: NodeLabel | None = Field(
        default=None, description="Each slice within one value of this label. May stand beside `required` or `preferred`."
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
    """In which queue of Kueue the run waits for quota, and with which rank. All its slices are admitted together, or none."""

    name: QueueName = Field(description="LocalQueue in the run's namespace.")
    priority_class: QueueName | None = Field(
        default=None,
        description="WorkloadPriorityClass: the run's rank in the queue. Default: the priority of `priorityClassName`.",
    )
    topology: QueueTopologySpec | None = Field(
        default=None, description="How close together the pods must be. Default: wherever the queue's flavor has nodes."
    )
    max_run_duration_seconds: Annotated[int, Field(ge=600, le=31_536_000)] | None = Field(
        default=None,
        description=(
            "For queues that ask for nodes by a ProvisioningRequest: for how long the nodes are wanted. Default: as long as the provider "
            "gives them. When they go, the run goes on with the next ones."
        ),
    )
