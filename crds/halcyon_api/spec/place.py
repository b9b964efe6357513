"""``spec.place``: other rows of hardware on which the run may train, and when it takes which.

Row 0 is `accelerator` itself, row n the nth of `place.otherwise`. Rows differ in their nodes, mesh and microbatches
only: the batch of a step, and all fields that decide its numbers, are those of the run.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from halcyon_api.base import ApiModel, Rule, RuledModel, optional
from halcyon_api.spec.accelerator import AcceleratorSpec, Hardware
from halcyon_api.spec.budget import Time, time_rule
from halcyon_api.spec.mesh import MeshSpec
from halcyon_api.spec.scheduling import LabelValue, check_node_labels
from halcyon_api.spec.trainer import MAX_MICROBATCHES

MAX_OTHERS = 7


class OtherHardware(Hardware):
    """The hardware of another row, with the `hostResources` of the run."""

    @model_validator(mode="after")
    def _exists(self) -> Self:
        whole = AcceleratorSpec.model_construct(**dict(self))
        for rule in AcceleratorSpec.rules:  # too long for the definition to have them twice
            if not rule.holds(whole):
                raise ValueError(rule.sentence(whole))
        return self


class OtherRow(ApiModel):
    """Another row of hardware."""

    accelerator: OtherHardware
    """The hardware, with the `hostResources` of the run."""
    mesh: MeshSpec | None = None
    """The mesh. Default: chosen as for a run without `mesh`."""
    microbatches: int | None = optional(ge=1, le=MAX_MICROBATCHES)
    """Parts of a batch. Default: `trainer.microbatches`."""
    node_selector: dict[str, LabelValue] | None = optional(max_length=16)
    """Labels of the nodes. Default: `scheduling.nodeSelector`."""

    @field_validator("node_selector")
    @classmethod
    def _label_keys(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        return labels and check_node_labels(labels)


class PlaceSpec(RuledModel):
    """Other rows of hardware on which the run may train, and when it takes which."""

    otherwise: Annotated[list[OtherRow], Field(min_length=1, max_length=MAX_OTHERS)]
    """The rows after `accelerator`, in the order in which they are tried; after the last one, `accelerator` again."""
    wait_seconds: Annotated[int, Field(ge=10, le=31_536_000)] = 600
    """Try the next row when pods have found no node, or the queue has admitted nothing, for this long. With `by`:
    search for room in a better row after the run has trained this long."""
    by: Literal["price", "time"] | None = None
    """Move a run that trains, at a checkpoint, to an earlier row that has room, unless the price or the time of its
    steps is known to be worse there. Default: a run that trains stays."""
    deadline: Time | None = None
    """With `by: price`, when the run must be done. It moves to a row that makes it if the present one would not."""

    rules: ClassVar = (
        Rule(
            "!has(self.deadline) || self.?by.orValue('') == 'price'",
            "deadline needs by: price, because by: time always looks for the fastest row; set by, or leave deadline "
            "out",
            ".deadline",
        ),
        time_rule("deadline"),
    )
