"""``spec.after``: the run that comes before this one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel
from halcyon_api.names import MAX_RUN_NAME_LENGTH


class AfterSpec(ApiModel):
    """The run that must have succeeded before this one begins: one that builds its data, or one that it goes on from."""

    run: Annotated[str, StringConstraints(min_length=1, max_length=MAX_RUN_NAME_LENGTH, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="Name of a run of the same namespace. It may be made later than this one."
    )
