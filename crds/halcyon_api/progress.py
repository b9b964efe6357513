"""What a trainer tells of itself: the progress report of ``/status`` and the termination report of an ended container.

Both are JSON of bounded size. The operator treats them as claims: it shows them, and asks the checkpoint root itself before it decides.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, RunName, Timestamp
from halcyon_api.goodput import GoodputSeconds
from halcyon_api.save_requests import MAX_REMEMBERED_REQUESTS, SaveRequestTaken
from halcyon_api.spec.sources import SourceName

Stage = Literal["starting", "joining", "tokenizing", "restoring", "compiling", "training", "evaluating", "saving", "leaving", "done"]

Cause = Literal[
    "completed",
    "preempted",
    "failed",
    "hung",
    "badConfiguration",
    "fenced",
    "noValidCheckpoint",
    "runChanged",
    "rootTaken",
    "rootUnusable",
    "dataUnreachable",
    "diverged",
]
"""Why a trainer process ended, as it says itself."""

Saved = Literal["step", "inFlight", "none"]
"""What a process that left after a notice brought to a commit: its last step, the save that was under way, or nothing new."""

ShortText = Annotated[str, StringConstraints(max_length=2048)]
StepNumber = Annotated[int, Field(ge=0)]

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""


class ReportModel(ApiModel):
    """A report may come from a newer trainer: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class SourceEvaluation(ReportModel):
    """What an evaluation found on the held-out part of one source."""

    source: SourceName = Field(description="Name of the source.")
    loss: float | None = Field(default=None, description="Nats per token.")
    bits_per_byte: float | None = Field(default=None, description="Bits per byte of text; absent where the tokens stand for no text.")
    tokens: StepNumber = Field(default=0, description="Tokens predicted.")
    sequences: StepNumber = Field(default=0, description="Sequences evaluated.")


class Evaluated(ReportModel):
    """What a run of task `evaluate` evaluates, and what it has found so far."""

    run: RunName = Field(description="The run whose checkpoint it is.")
    step: StepNumber = Field(description="Steps done when the checkpoint was made.")
    path: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[A-Za-z0-9._/-]+$")] = Field(
        description="Its place below that run's root."
    )
    sources: Annotated[list[SourceEvaluation], Field(max_length=64)] = Field(
        default_factory=list[SourceEvaluation], description="Sources of which all is evaluated, in their order."
    )


class Progress(ReportModel):
    """How far the run is. All counts are since the beginning of the run, over all attempts."""

    step: StepNumber = Field(default=0, description="Steps done; batches evaluated, with task `evaluate`.")
    steps: StepNumber = Field(default=0, description="Steps of the whole run, or batches.")
    tokens: StepNumber = Field(default=0, description="Tokens trained on, or evaluated.")
    loss: float | None = Field(default=None, description="Training loss of the last reported step, in nats per token.")
    tokens_per_second: float | None = Field(default=None, description="Tokens trained on, or evaluated, per second, over the last steps.")
    mfu: float | None = Field(default=None, description="Model FLOPs utilisation, between 0 and 1, where the device's peak is known.")
    eta_seconds: float | None = Field(default=None, description="Seconds until the last step at the present speed.")
    evaluation_loss: float | None = Field(default=None, description="Loss on the held-out part, in nats per token.")
    bits_per_byte: float | None = Field(default=None, description="Loss on the held-out part, in bits per byte of text.")
    evaluated: Evaluated | None = Field(default=None, description="The checkpoint that a run of task `evaluate` evaluates.")
    save_interval_seconds: float | None = Field(default=None, description="Seconds between saves, where they are made by time.")

    @property
    def counts(self) -> tuple[int, ...]:
        """All its whole numbers, for whoever asks whether they can be believed."""
        found = self.evaluated
        sources = [] if found is None else [number for one in found.sources for number in (one.tokens, one.sequences)]
        return self.step, self.steps, self.tokens, *([] if found is None else [found.step]), *sources


class CheckpointProgress(ReportModel):
    """The newest committed checkpoint."""

    step: StepNumber = Field(description="Steps done when it was made.")
    attempt: int = Field(ge=0, description="Attempt that made it.")
    path: Annotated[str, StringConstraints(max_length=1024)] = Field(description="Its place below the root.")
    time: Timestamp = Field(description="When it was committed.")
    size_bytes: int | None = Field(default=None, ge=0, description="Size of all its files, in bytes.")
    verified: bool | None = Field(default=None, description="Whether it was read back whole after its commit, and every byte was right.")


StoreWaitFor = Literal["checkpointRoot", "tokenCache", "dataSource"]
"""What lies in a store that a process waits for."""


class StoreWait(ReportModel):
    """A store that refuses the credentials or does not answer, and that the process asks again."""

    what: StoreWaitFor = Field(description="What lies there.")
    until: Timestamp = Field(description="When the process gives up.")


class StartupSeconds(ReportModel):
    """Where the time from process start to the first step went, in seconds."""

    imports: float = Field(default=0.0, ge=0, description="Interpreter start and imports.")
    join: float = Field(default=0.0, ge=0, description="Waiting for the other processes.")
    data: float = Field(default=0.0, ge=0, description="Waiting for the token caches, or making them.")
    restore: float = Field(default=0.0, ge=0, description="Building or restoring the state.")
    compile: float = Field(default=0.0, ge=0, description="Tracing, compiling and the first step.")


class ProgressReport(ReportModel):
    """The document of ``/status``."""

    run: str = Field(description="Name of the run.")
    attempt: int = Field(ge=0, description="Attempt, minted by the operator.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    process_index: int = Field(ge=0, description="Index of the process among all.")
    stage: Stage = Field(description="What the process is doing.")
    started_at: Timestamp = Field(description="Start of the process.")
    resumed_step: StepNumber | None = Field(default=None, description="Steps already done when this process took up the run.")
    first_step_at: Timestamp | None = Field(default=None, description="End of the first step of this process.")
    last_step_at: Timestamp | None = Field(default=None, description="End of the last step of this process.")
    startup_seconds: StartupSeconds = Field(default_factory=StartupSeconds, description="Parts of the start.")
    seconds: GoodputSeconds = Field(
        default_factory=GoodputSeconds, description="Every second from the start of the process to `time`, by cause."
    )
    time: Timestamp | None = Field(default=None, description="When the report was made.")
    progress: Progress = Field(default_factory=Progress, description="How far the run is.")
    checkpoint: CheckpointProgress | None = Field(default=None, description="The newest committed checkpoint.")
    fallback_reason: ShortText | None = Field(default=None, description="Why an older checkpoint than the newest was restored, if so.")
    checkpoint_error: ShortText | None = Field(default=None, description="Why the last save failed, if it did.")
    waiting: StoreWait | None = Field(
        default=None,
        description="The store that refuses the credentials or does not answer and is asked again, if the process waits for one.",
    )
    save_requests: Annotated[list[SaveRequestTaken], Field(max_length=MAX_REMEMBERED_REQUESTS)] | None = Field(
        default=None, description="The last requests for a checkpoint that this process has taken note of."
    )


class TerminationReport(ReportModel):
    """The termination message of the trainer container, at most 4096 bytes of JSON."""

    cause: Cause = Field(description="Why the process ended.")
    exit_code: int = Field(ge=0, le=255, description="The exit code that goes with the cause.")
    message: ShortText = Field(description="One sentence for the user.")
    run: str = Field(default="", description="Name of the run.")
    attempt: int = Field(default=0, ge=0, description="Attempt, minted by the operator.")
    restart: int = Field(default=0, ge=0, description="JobSet restart inside the attempt.")
    process_index: int = Field(default=0, ge=0, description="Index of the process among all.")
    step: StepNumber = Field(default=0, description="Steps done.")
    checkpoint_step: StepNumber | None = Field(default=None, description="Step of the newest committed checkpoint.")
    progress: Progress | None = Field(
        default=None, description="How far the run was, by process 0: the last numbers, which nobody may have asked for in time."
    )
    saved: Saved | None = Field(
        default=None,
        description="After a notice: `step`, the last step was saved; `inFlight`, only the save under way was finished; `none`, neither.",
    )
    epoch_attempt: int | None = Field(default=None, ge=0, description="Attempt of the epoch that owns the root, when fenced by it.")
    peer_lost: int | None = Field(
        default=None, ge=0, description="Index of the process that was gone before this one ended because of it: the cause lies there."
    )
    others_missing: bool | None = Field(
        default=None,
        description="Whether the process gave up waiting for the others at the start: the cause lies with them, or their pods.",
    )
    seconds: GoodputSeconds | None = Field(default=None, description="Every second of the process's life, by cause.")
    time: Timestamp = Field(description="When the process ended.")
