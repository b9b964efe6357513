"""``spec.after``: the run that must succeed before this one begins."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel, RunName


class AfterSpec(ApiModel):
    """The run that must succeed before this one begins, such as the run that builds its data or the run of `from`."""

    run: RunName = Field(description="Name of a run of the same namespace. It may be created later than this one.")
