"""``spec.telemetry.trackers``: other programs that show the numbers of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel

AbsolutePath = Annotated[str, StringConstraints(max_length=1024, pattern=r"^/[^/].*$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class JsonLinesSpec(ApiModel):
    """A file with one JSON object for each row."""

    path: AbsolutePath = Field(description="The file.")


class TensorBoardSpec(ApiModel):
    """A folder for TensorBoard."""

    directory: AbsolutePath = Field(description="The folder; each run needs its own.")


class WandbSpec(ApiModel):
    """Weights & Biases. `WANDB_API_KEY`, `WANDB_MODE` and others of its variables count."""

    project: Title = Field(description="The project.")


class TrackioSpec(ApiModel):
    """Trackio. `TRACKIO_SPACE_ID` and others of its variables count."""

    project: Title = Field(description="The project.")


class MlflowSpec(ApiModel):
    """MLflow, at `MLFLOW_TRACKING_URI`."""

    experiment: Title = Field(description="The experiment.")


class TrackersSpec(ApiModel):
    """Trackers; any number of them.

    Process 0 writes to them. A tracker that fails ends with one warning, and the run trains on.
    """

    json_lines: JsonLinesSpec | None = Field(default=None, description="A file of JSON lines.")
    tensor_board: TensorBoardSpec | None = Field(default=None, description="TensorBoard.")
    wandb: WandbSpec | None = Field(
        default=None, description="Weights & Biases, set up by its own variables, such as `WANDB_API_KEY`."
    )
    trackio: TrackioSpec | None = Field(default=None, description="Trackio, set up by its own variables.")
    mlflow: MlflowSpec | None = Field(default=None, description="MLflow at `MLFLOW_TRACKING_URI`.")
