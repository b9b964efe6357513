"""``spec.scheduling.queue``: the run waits in a queue of Kueue until there is quota for all of it at once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from halcyon_api.base import ApiModel, cel

QueueName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), Field(min_length=1)]
"""Name of an object of Kueue's that is named in a label, and so is no longer than one."""
NodeLabel = Annotated[
    str, StringConstraints(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
"""Key of a label of nodes that is a level of Kueue's Topology."""

_ONE_LEVEL = "set either required or preferred for the whole run, not both"
_SOME_LEVEL = "set required, preferred or slice to the node label that is a level of Kueue's Topology"


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

    cel_rules: ClassVar = (
        cel("!has(self.required) || !has(self.preferred)", _ONE_LEVEL, field_path=".preferred"),
        cel("has(self.required) || has(self.preferred) || has(self.slice)", _SOME_LEVEL),
    )

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if self.required is not None and self.preferred is not None:
            raise ValueError(_ONE_LEVEL)
        if self.required is None and self.preferred is None and self.slice is None:
            raise ValueError(_SOME_LEVEL)
        return self


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
