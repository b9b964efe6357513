"""``spec.from``: the run whose checkpoint this one begins with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, RunName

ROOT_PATTERN = r"^(file://(/[A-Za-z0-9._=-]+)+|(s3|gs)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)+)/?$"


class OriginSpec(ApiModel):
    """The run whose checkpoint this one begins with. Its root is only read; the new run has a root of its own from its first moment."""

    run: RunName = Field(description="Name of a run of the same namespace. It may go on meanwhile, or be over.")
    step: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="Step of its checkpoint. Default: its newest that verifies, when this run begins."
    )
    root: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None,
        description=(
            "`checkpoint.root` of that run, where the TrainingRun is gone, or outside of a cluster. Default: as the TrainingRun has it. An "
            "S3 store's endpoint, region and credentials are those of this run's `checkpoint`."
        ),
        json_schema_extra={"pattern": ROOT_PATTERN},
    )
