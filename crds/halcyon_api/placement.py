"""``status.placement``: on how many slices the run is, off which nodes, and why."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, Timestamp

MAX_BLAMES = 32
MAX_AVOIDED = 16

NodeName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]
Text = Annotated[str, StringConstraints(max_length=1024)]


class PlacementModel(ApiModel):
    """Survives up- and downgrades of the operator: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class Blame(PlacementModel):
    """A world of processes ended because of a failure on a node."""

    node: NodeName = Field(description="Name of the node.")
    time: Timestamp = Field(description="When the process on it ended.")
    attempt: int = Field(ge=0, description="Attempt of the world.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")


class AvoidedNode(PlacementModel):
    """A node that attempts keep off."""

    node: NodeName = Field(description="Name of the node.")
    since: Timestamp = Field(description="Since when.")
    blames: int = Field(ge=0, description="How often it had been blamed then.")


class PlacementStatus(PlacementModel):
    """On how many slices the run is, off which nodes, and why."""

    slices: int = Field(ge=1, description="Slices of the present attempt; while that one is being stopped, of the next.")
    wanted_slices: int = Field(ge=1, description="Slices that the run would have if there were room for them.")
    reason: Text | None = Field(default=None, description="Why it is on another number of slices than it would have.")
    waiting_since: Timestamp | None = Field(default=None, description="Since when pods of the present attempt have found no node.")
    room_since: Timestamp | None = Field(default=None, description="Since when a probe has held room for more slices.")
    room_slices: int | None = Field(default=None, ge=1, description="With that room, the run could have so many slices.")
    room_step: int | None = Field(default=None, ge=0, description="Committed step when the room was found; a later one lets the run grow.")
    grown_from: int | None = Field(default=None, ge=1, description="Slices before the run grew, until that has paid, or was lost.")
    grown_at: Timestamp | None = Field(default=None, description="When it grew.")
    lost_growths: int = Field(default=0, ge=0, description="How often in a row it grew and had to shrink again before that had paid.")
    grow_not_before: Timestamp | None = Field(default=None, description="After a growth that was lost, when room is looked for again.")
    avoided: Annotated[list[AvoidedNode], Field(max_length=MAX_AVOIDED)] = Field(
        default_factory=list[AvoidedNode], description="Nodes that attempts keep off, because of repeated failures on them."
    )
    blames: Annotated[list[Blame], Field(max_length=MAX_BLAMES)] = Field(
        default_factory=list[Blame], description="The last failures by node, oldest first."
    )
