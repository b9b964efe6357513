"""``status.saveRequest`` and ``status.maintenance``: checkpoints that were asked for, and what machines say about their end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, Timestamp

MAX_NOTICES = 64
MAX_REQUEST_VALUE = 253

Notice = Literal["scheduled", "soon", "window", "underway", "terminating", "draining", "cordoned", "outOfService"]
"""What a node says: maintenance at a known time, the same in a few minutes, its window has begun, it is under way, the machine is about to
end, the autoscaler takes it away, nobody may be placed on it any more, it is gone."""


class NoticeModel(ApiModel):
    """Survives up- and downgrades of the operator: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class SaveRequestStatus(NoticeModel):
    """A request for a checkpoint and what became of it."""

    value: Annotated[str, StringConstraints(max_length=MAX_REQUEST_VALUE)] = Field(description="What was asked with.")
    requested_at: Timestamp = Field(description="When it was first seen.")
    asked_step: int | None = Field(default=None, ge=0, description="Steps done when the trainer took note of it.")
    step: int | None = Field(default=None, ge=0, description="Step of the checkpoint that serves it: the first one made after it.")


class NodeNotice(NoticeModel):
    """What a node under the run says about its end."""

    node: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = Field(description="Name of the node.")
    notice: Notice = Field(
        description=(
            "`scheduled`: maintenance at a known time; `soon`: in a few minutes; `window`: its window has begun; `underway`: it goes on; "
            "`terminating`: the machine is about to end; `draining`: the autoscaler takes it away; `cordoned`: closed for new pods; "
            "`outOfService`: it is gone."
        )
    )
    at: Timestamp | None = Field(default=None, description="For when the maintenance is scheduled.")
    seen_at: Timestamp = Field(description="When the operator first saw it.")


class MaintenanceStatus(NoticeModel):
    """Notices of the nodes that the run is on, and the checkpoint that they led to."""

    notices: Annotated[list[NodeNotice], Field(max_length=MAX_NOTICES)] = Field(description="By node; at most 64 are listed.")
    save: SaveRequestStatus | None = Field(default=None, description="The last checkpoint that was asked for because of a notice.")
