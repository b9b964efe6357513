"""``spec.after``: the run that comes before this one."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel, RunName


class AfterSpec(ApiModel):
    """The run that must have succeeded before this one begins: one that builds its data, or one that it goes on from."""

    run: RunName = Field(description="Name of a run of the same namespace. It may be made later than this one.")
