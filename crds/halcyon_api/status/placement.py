"""``status.placement``: number of slices and avoided nodes, with the reasons."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, Timestamp

MAX_BLAMES = 32
MAX_AVOIDED = 16

NodeName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]
Text = Annotated[str, StringConstraints(max_length=1024)]


class PlacementModel(ApiModel):
    """Ignores unknown fields, so that it survives upgrades and downgrades of the operator."""

    model_config = ConfigDict(extra="ignore")


class Blame(PlacementModel):
    """A process group ended because of a failure on a node."""

    node: NodeName = Field(description="Name of the node.")
    time: Timestamp = Field(description="When the process on the node ended.")
    attempt: int = Field(ge=0, description="Attempt of the process group.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")


class AvoidedNode(PlacementModel):
    """A node that attempts avoid."""

    node: NodeName = Field(description="Name of the node.")
    since: Timestamp = Field(description="Since when the node is avoided.")
    blames: int = Field(ge=0, description="Number of its blames at that time.")


class PlacementStatus(PlacementModel):
    """Number of slices and avoided nodes, with the reasons."""

    slices: int = Field(
        ge=1, description="Slices of the present attempt, or of the next one while the present one is stopping."
    )
    wanted_slices: int = Field(ge=1, description="Slices that the run would use if there were room.")
    reason: Text | None = Field(default=None, description="Why the run has fewer slices than `accelerator.slices`.")
    waiting_since: Timestamp | None = Field(
        default=None, description="Since when pods of the present attempt wait for a node."
    )
    room_since: Timestamp | None = Field(default=None, description="Since when a probe has held room for more slices.")
    room_slices: int | None = Field(
        default=None, ge=1, description="Number of slices that the run could have with that room."
    )
    room_step: int | None = Field(
        default=None, ge=0, description="Committed step when the room was found. The run grows at a later one."
    )
    grown_from: int | None = Field(
        default=None,
        ge=1,
        description="Slices before the run grew; kept until the growth has paid for itself or was lost.",
    )
    grown_at: Timestamp | None = Field(default=None, description="When the run grew.")
    lost_growths: int = Field(
        default=0, ge=0, description="Growths in a row that were lost before they had paid for themselves."
    )
    grow_not_before: Timestamp | None = Field(
        default=None, description="After a lost growth: when the search for room may begin again."
    )
    avoided: Annotated[list[AvoidedNode], Field(max_length=MAX_AVOIDED)] = Field(
        default_factory=list[AvoidedNode], description="Nodes that attempts avoid because of repeated failures on them."
    )
    blames: Annotated[list[Blame], Field(max_length=MAX_BLAMES)] = Field(
        default_factory=list[Blame], description="The last failures by node, oldest first."
    )
