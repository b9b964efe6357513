"""``status.inForce`` and ``status.edit``: the field values that the run uses now, and an edit that waits for a
checkpoint.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp
from halcyon_api.status.maintenance import SaveRequestStatus

MAX_FIELDS = 256
MAX_VALUE = 16_384

InForce = Annotated[dict[str, Annotated[str, StringConstraints(max_length=MAX_VALUE)]], Field(max_length=MAX_FIELDS)]
"""Fields that are not at their default, by path, each as JSON text."""

FieldPath = Annotated[str, StringConstraints(max_length=128)]


class EditStatus(ApiModel):
    """An edit that waits for a checkpoint. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    since: Timestamp = Field(description="When the edit was first seen.")
    fields: Annotated[list[FieldPath], Field(max_length=MAX_FIELDS)] = Field(
        default_factory=list[str], description="The fields that differ from those of the present attempt."
    )
    save: SaveRequestStatus = Field(description="The requested checkpoint; the next attempt begins with it.")
