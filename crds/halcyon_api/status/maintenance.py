"""``status.saveRequest`` and ``status.maintenance``: requested checkpoints, and the notices of nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, Timestamp

MAX_NOTICES = 64
MAX_REQUEST_VALUE = 253

Notice = Literal["scheduled", "soon", "window", "underway", "terminating", "draining", "cordoned", "outOfService"]
"""The notice of a node; see `NodeNotice.notice`."""


class NoticeModel(ApiModel):
    """Ignores unknown fields, so that it survives upgrades and downgrades of the operator."""

    model_config = ConfigDict(extra="ignore")


class SaveRequestStatus(NoticeModel):
    """A request for a checkpoint and its result."""

    value: Annotated[str, StringConstraints(max_length=MAX_REQUEST_VALUE)] = Field(description="Value of the request.")
    requested_at: Timestamp = Field(description="When the request was first seen.")
    asked_step: int | None = Field(default=None, ge=0, description="Steps done when the trainer recorded the request.")
    step: int | None = Field(
        default=None, ge=0, description="Step of the checkpoint that serves it: the first one after the request."
    )


class NodeNotice(NoticeModel):
    """A notice of one of the run's nodes."""

    node: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)] = Field(description="Name of the node.")
    notice: Notice = Field(
        description=(
            "`scheduled`: maintenance at a known time; `soon`: maintenance in a few minutes; `window`: the maintenance "
            "window has begun; "
            "`underway`: maintenance is in progress; `terminating`: the machine ends soon; `draining`: the autoscaler "
            "removes the node; "
            "`cordoned`: closed for new pods; `outOfService`: the node is out of service."
        )
    )
    at: Timestamp | None = Field(default=None, description="Scheduled time of the maintenance.")
    seen_at: Timestamp = Field(description="When the operator first saw the notice.")


class MaintenanceStatus(NoticeModel):
    """Notices of the run's nodes, and the checkpoint requested because of them."""

    notices: Annotated[list[NodeNotice], Field(max_length=MAX_NOTICES)] = Field(
        description="Notices by node, at most 64."
    )
    save: SaveRequestStatus | None = Field(
        default=None, description="The last checkpoint that was requested because of a notice."
    )
