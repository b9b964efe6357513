"""``spec.from``: the run whose checkpoint the new run begins with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, RunName

ROOT_PATTERN = r"^(file://(/[A-Za-z0-9._=-]+)+|(s3|gs)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)+)/?$"


class OriginSpec(ApiModel):
    """The run whose checkpoint the new run begins with. Its root is only read; the new run writes to its own root from the start."""

    run: RunName = Field(description="Name of a run of the same namespace. It may still be training, or have ended.")
    step: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None, description="Step of the checkpoint. Default: the newest checkpoint that verifies when this run begins."
    )
    root: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None,
        description=(
            "`checkpoint.root` of that run. Needed if that TrainingRun is deleted, or outside a cluster. Default: read from that "
            "TrainingRun. An S3 store's endpoint, region and credentials are those of this run's `checkpoint`."
        ),
        json_schema_extra={"pattern": ROOT_PATTERN},
    )
