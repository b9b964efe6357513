"""Requests and their outcomes: ``status.saveRequest``, ``status.restart``, ``status.edit`` with ``status.inForce``, and
``status.maintenance``, the notices of nodes.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, StringConstraints

from halcyon_api.base import MAX_NAME_LENGTH, StatusModel, Timestamp

MAX_NOTICES = 64
MAX_REQUEST_VALUE = 253

Notice = Literal["scheduled", "soon", "window", "underway", "terminating", "draining", "cordoned", "outOfService"]
"""The notice of a node; see `NodeNotice.notice`."""


class SaveRequestStatus(StatusModel):
    """A request for a checkpoint and its result."""

    value: Annotated[str, StringConstraints(max_length=MAX_REQUEST_VALUE)]
    """Value of the request."""
    requested_at: Timestamp
    """When the request was first seen."""
    asked_step: NonNegativeInt | None = None
    """Steps done when the trainer recorded the request."""
    step: NonNegativeInt | None = None
    """Step of the first checkpoint after the request, which serves it."""


class NodeNotice(StatusModel):
    """A notice of one of the run's nodes."""

    node: Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]
    """Name of the node."""
    notice: Notice
    """Maintenance is `scheduled`: at a known time; `soon`: in a few minutes; `window`: its window has begun;
    `underway`: in progress. `terminating`: the machine ends soon; `draining`: the autoscaler removes the node;
    `cordoned`: closed for new pods; `outOfService`: taken out of service."""
    at: Timestamp | None = None
    """Scheduled time of the maintenance."""
    seen_at: Timestamp
    """When the notice was first seen."""


class MaintenanceStatus(StatusModel):
    """Notices of the run's nodes, and the checkpoint requested because of them."""

    notices: Annotated[list[NodeNotice], Field(max_length=MAX_NOTICES)]
    """Notices by node, at most 64."""
    save: SaveRequestStatus | None = None
    """The last checkpoint requested because of a notice."""


RestartOutcome = Literal["waiting", "restarted", "passedOver"]


class RestartStatus(SaveRequestStatus):
    """A requested restart, the checkpoint that is made for it, and its outcome. Unknown fields are ignored."""

    attempt: NonNegativeInt
    """Attempt when the request was first seen; the next attempt is the restart."""
    outcome: RestartOutcome
    """`waiting`: for a checkpoint, or the end of the pods; `restarted`: every pod is newer than the request;
    `passedOver`: the run was suspended, done or not begun, so there was no pod to replace."""

    @property
    def waits(self) -> bool:
        """Whether the restart is still to be done."""
        return self.outcome == "waiting"


MAX_FIELDS = 256
MAX_VALUE = 16_384

InForce = Annotated[dict[str, Annotated[str, StringConstraints(max_length=MAX_VALUE)]], Field(max_length=MAX_FIELDS)]
"""Fields that are not at their default, by path, each as JSON text."""


def read_recorded(texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of fields that a status has as JSON text.

    Values that cannot be read are ignored, because any user may have changed the status.
    """
    found: dict[str, Any] = {}
    for path, text in texts.items():
        with contextlib.suppress(ValueError, RecursionError):
            found[path] = json.loads(text)
    return found


FieldPath = Annotated[str, StringConstraints(max_length=128)]


class EditStatus(StatusModel):
    """An edit that waits for a checkpoint. Unknown fields are ignored."""

    since: Timestamp
    """When the edit was first seen."""
    fields: list[FieldPath] = Field(default_factory=list[str], max_length=MAX_FIELDS)
    """The fields that differ from those of the present attempt."""
    save: SaveRequestStatus
    """The requested checkpoint; the next attempt begins with it."""
