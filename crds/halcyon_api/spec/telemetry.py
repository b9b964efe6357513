"""``spec.telemetry``: how the run is monitored: trackers, profiles, numbers of each parameter and texts of the model
at intervals.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, StepCount
from halcyon_api.post_requests import USUAL_PROFILED_STEPS, ProfiledSteps

AbsolutePath = Annotated[str, StringConstraints(max_length=1024, pattern=r"^/[^/].*$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class JsonLinesSpec(ApiModel):
    """A file with one JSON object for each row."""

    path: AbsolutePath
    """The file."""


class TensorBoardSpec(ApiModel):
    """A folder for TensorBoard."""

    directory: AbsolutePath
    """The folder; each run needs its own."""


class WandbSpec(ApiModel):
    """Weights & Biases. `WANDB_API_KEY`, `WANDB_MODE` and others of its variables count."""

    project: Title
    """The project."""


class TrackioSpec(ApiModel):
    """Trackio. `TRACKIO_SPACE_ID` and others of its variables count."""

    project: Title
    """The project."""


class MlflowSpec(ApiModel):
    """MLflow, at `MLFLOW_TRACKING_URI`."""

    experiment: Title
    """The experiment."""


class TrackersSpec(ApiModel):
    """Trackers; any number of them.

    Process 0 writes to them. A tracker that fails ends with one warning, and the run trains on.
    """

    json_lines: JsonLinesSpec | None = None
    """A file of JSON lines."""
    tensor_board: TensorBoardSpec | None = None
    """TensorBoard."""
    wandb: WandbSpec | None = None
    """Weights & Biases, set up by its own variables, such as `WANDB_API_KEY`."""
    trackio: TrackioSpec | None = None
    """Trackio, set up by its own variables."""
    mlflow: MlflowSpec | None = None
    """MLflow at `MLFLOW_TRACKING_URI`."""


Watched = Literal["gradients", "parameters", "updates", "activations"]


class WatchSpec(ApiModel):
    """Norm and RMS of each parameter, of its gradient before clipping, of its update, and of each block's output."""

    every_steps: StepCount = 10
    """Steps between two watched ones. A watched step is a program of its own."""
    what: list[Watched] = Field(default=["gradients", "parameters", "updates"], min_length=1, max_length=4)
    """`updates` adds their ratio to the parameters; `activations` are the outputs of blocks."""
    histograms: bool = False
    """Also histograms of the magnitudes, for the history and for hooks."""

    def is_due(self, step: int) -> bool:
        """Whether a step is watched. `step` counts from 1."""
        return step % self.every_steps == 0


class ProfileSpec(ApiModel):
    """A window of steps that every process profiles. The files are below `profiles/` in the checkpoint root."""

    at_step: Annotated[int, Field(ge=2, le=1_000_000_000)]
    """First step of the window, counted from 1."""
    steps: ProfiledSteps = USUAL_PROFILED_STEPS
    """Number of steps."""


class SampleSpec(ApiModel):
    """A text that the model writes as it learns. The log and the history have it; it changes no step."""

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    """The text to continue; of a model trained on conversations, the user's message."""
    every_steps: StepCount
    """Steps between two texts. The last step has one too."""

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether the model writes a text after a number of steps."""
        return is_last or step % self.every_steps == 0


class TelemetrySpec(ApiModel):
    """How the run is monitored."""

    port: Annotated[int, Field(ge=1024, le=65_535)] = 9400
    """Port of `/metrics`, `/status` and `/healthz` in every trainer pod."""
    status_interval_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    """Seconds between the operator's reads of the trainer's progress into the run's status."""
    trackers: TrackersSpec | None = None
    """Other programs that show the numbers of the run."""
    profile: ProfileSpec | None = None
    """Profile a window of steps."""
    watch: WatchSpec | None = None
    """Watch each parameter at intervals. Default: not at all."""
    sample: SampleSpec | None = None
    """Show what the model writes as it learns. Default: not at all."""
