"""The reports of a trainer: the progress report of ``/status`` and the termination report of an ended container.

Both are JSON of bounded size. The operator does not trust them: it shows them, but reads the checkpoint root itself
before it decides.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from halcyon_api.base import RunName, StatusModel, Timestamp, optional
from halcyon_api.ends import EndCause
from halcyon_api.post_requests import MAX_REMEMBERED_REQUESTS, SaveRequestTaken
from halcyon_api.result_documents import REPORTED_TASKS
from halcyon_api.spec.sources import SourceName
from halcyon_api.status.goodput import GoodputSeconds

Stage = Literal[
    "starting", "joining", "tokenizing", "restoring", "compiling", "training", "evaluating", "saving", "leaving", "done"
]


def _reported(cause: EndCause) -> EndCause:
    if cause.end.exit_code is None:
        raise ValueError(f"no trainer reports {cause.value}")
    return cause


ReportedCause = Annotated[EndCause, Field(strict=False), AfterValidator(_reported)]
"""Why a trainer process ended, as reported by itself: a cause that has an exit code."""

Saved = Literal["step", "inFlight", "none"]
"""What a process committed after a preemption notice: its last step, only the save in flight, or nothing new."""

ShortText = Annotated[str, StringConstraints(max_length=2048)]
StepNumber = Annotated[int, Field(ge=0)]

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""


class SourceEvaluation(StatusModel):
    """Result of an evaluation on the held-out part of one source."""

    source: SourceName = Field(description="Name of the source.")
    loss: float | None = optional("Nats per token.")
    bits_per_byte: float | None = optional("Bits per byte of text; absent if the tokens have no text.")
    tokens: StepNumber = Field(default=0, description="Tokens predicted.")
    sequences: StepNumber = Field(default=0, description="Sequences evaluated.")


class Evaluated(StatusModel):
    """The checkpoint that a run of task `evaluate` evaluates, and the results so far."""

    run: RunName = Field(description="The run of the checkpoint.")
    step: StepNumber = Field(description="Steps done when the checkpoint was made.")
    path: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[A-Za-z0-9._/-]+$")] = Field(
        description="Path below that run's root."
    )
    sources: Annotated[list[SourceEvaluation], Field(max_length=64)] = Field(
        default_factory=list[SourceEvaluation],
        description="Sources whose evaluation is complete, in the order of the document.",
    )


class Progress(StatusModel):
    """Progress of the run. All counts are since the beginning of the run, over all attempts."""

    step: StepNumber = Field(default=0, description="Steps done. With task `evaluate`: batches evaluated.")
    steps: StepNumber = Field(default=0, description="Steps, or batches, of the whole run.")
    tokens: StepNumber = Field(default=0, description="Tokens trained on, or evaluated.")
    loss: float | None = optional("Training loss of the last reported step, in nats per token.")
    tokens_per_second: float | None = optional("Tokens trained on, or evaluated, per second, over the last steps.")
    mfu: float | None = optional("Model FLOPs utilisation, between 0 and 1; absent if the device's peak is unknown.")
    eta_seconds: float | None = optional("Seconds until the last step at the present speed.")
    evaluation_loss: float | None = optional("Loss on the held-out part, in nats per token.")
    bits_per_byte: float | None = optional("Loss on the held-out part, in bits per byte of text.")
    load_balance_loss: float | None = optional(
        "Models with experts: mean balance loss of the routers; 1 if every expert gets the same number of tokens."
    )
    z_loss: float | None = optional("Objective `nextToken` with `zLoss`: mean z-loss, without its weight.")
    router_z_loss: float | None = optional("Models with experts: mean z-loss of the routers.")
    expert_load_max: float | None = optional(
        "Models with experts: tokens of the busiest expert of any layer, divided by the mean of its layer."
    )
    preference_accuracy: float | None = optional("Objective `preference`: share of pairs in the right order.")
    reward_margin: float | None = optional("Its mean difference of rewards.")
    reward: float | None = optional("Objective `policy`: mean reward.")
    evaluated: Evaluated | None = optional("The checkpoint that a run of task `evaluate` evaluates.")
    tasks: Annotated[dict[str, float], Field(max_length=32)] | None = optional("Results by task.")
    save_interval_seconds: float | None = optional("Seconds between saves, if saves are made by time.")
    exported_step: StepNumber | None = optional("Step of the newest complete export, if the run has `export`.")
    attention: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z, ]*$")] | None = optional(
        "The implementation of attention in use; several if the calls of the model differ."
    )
    determinism: Annotated[str, StringConstraints(max_length=32, pattern=r"^[a-z]*$")] | None = optional(
        "The `trainer.determinism` in effect."
    )
    best_step: StepNumber | None = optional("Step of the best evaluation.")
    best_evaluation: float | None = optional("Its value.")
    stopped_early: bool | None = optional("Whether evaluations that did not improve ended the run.")
    plan: Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9., ]*$")] | None = optional(
        "How a step uses the devices: mesh, microbatches, remat policy and memory of one device."
    )

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: dict[str, float] | None) -> dict[str, float] | None:
        """Only names of the contract: a report must not make labels of its own."""
        return None if tasks is None else {name: value for name, value in tasks.items() if name in REPORTED_TASKS}

    @property
    def counts(self) -> tuple[int, ...]:
        """All its integers, for a check of their range."""
        found = self.evaluated
        sources = [] if found is None else [number for one in found.sources for number in (one.tokens, one.sequences)]
        exported = [step for step in (self.exported_step, self.best_step) if step is not None]
        return self.step, self.steps, self.tokens, *exported, *([] if found is None else [found.step]), *sources


class CheckpointProgress(StatusModel):
    """The newest committed checkpoint."""

    step: StepNumber = Field(description="Steps done when it was made.")
    attempt: int = Field(ge=0, description="Attempt that made it.")
    path: Annotated[str, StringConstraints(max_length=1024)] = Field(description="Path below the root.")
    time: Timestamp = Field(description="When it was committed.")
    size_bytes: int | None = optional("Size of all its files, in bytes.", ge=0)
    verified: bool | None = optional("Whether it was read back in full after its commit, and every byte was right.")


StoreWaitFor = Literal["checkpointRoot", "tokenCache", "dataSource"]
"""Content of a store that a process waits for."""


class StoreWait(StatusModel):
    """A store that rejects the credentials or does not answer, and that the process retries."""

    what: StoreWaitFor = Field(description="Content of the store.")
    until: Timestamp = Field(description="When the process gives up.")


class StartupSeconds(StatusModel):
    """The time from process start to the first step, in seconds, by phase."""

    imports: float = Field(default=0.0, ge=0, description="Interpreter start and imports.")
    join: float = Field(default=0.0, ge=0, description="Waiting for the other processes.")
    data: float = Field(default=0.0, ge=0, description="Waiting for the token caches, or building them.")
    restore: float = Field(default=0.0, ge=0, description="Building or restoring the state.")
    compile: float = Field(default=0.0, ge=0, description="Tracing, compiling and the first step.")


class ProgressReport(StatusModel):
    """The document of ``/status``."""

    run: str = Field(description="Name of the run.")
    attempt: int = Field(ge=0, description="Attempt, assigned by the operator.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    process_index: int = Field(ge=0, description="Index of the process in its process group.")
    stage: Stage = Field(description="What the process is doing.")
    started_at: Timestamp = Field(description="Start of the process.")
    resumed_step: StepNumber | None = optional("Steps already done when this process resumed the run.")
    first_step_at: Timestamp | None = optional("End of the first step of this process.")
    last_step_at: Timestamp | None = optional("End of the last step of this process.")
    startup_seconds: StartupSeconds = Field(
        default_factory=StartupSeconds, description="Durations of the phases of the start."
    )
    seconds: GoodputSeconds = Field(
        default_factory=GoodputSeconds, description="Every second from the start of the process to `time`, by cause."
    )
    time: Timestamp | None = optional("When the report was made.")
    progress: Progress = Field(default_factory=Progress, description="Progress of the run.")
    checkpoint: CheckpointProgress | None = optional("The newest committed checkpoint.")
    fallback_reason: ShortText | None = optional("If an older checkpoint than the newest was restored: the reason.")
    head_loss: ShortText | None = optional("If this start had to rebuild HEAD from the checkpoints: the reason.")
    checkpoint_error: ShortText | None = optional("If the last save failed: the reason.")
    waiting: StoreWait | None = optional("The store that the process waits for and retries, if any.")
    save_requests: Annotated[list[SaveRequestTaken], Field(max_length=MAX_REMEMBERED_REQUESTS)] | None = optional(
        "The last checkpoint requests that this process has recorded."
    )


class TerminationReport(StatusModel):
    """The termination message of the trainer container, at most 4096 bytes of JSON."""

    cause: ReportedCause = Field(description="Why the process ended.")
    exit_code: int = Field(ge=0, le=255, description="The exit code that goes with the cause.")
    message: ShortText = Field(description="One sentence for the user.")
    run: str = Field(default="", description="Name of the run.")
    attempt: int = Field(default=0, ge=0, description="Attempt, assigned by the operator.")
    restart: int = Field(default=0, ge=0, description="JobSet restart inside the attempt.")
    process_index: int = Field(default=0, ge=0, description="Index of the process in its process group.")
    step: StepNumber = Field(default=0, description="Steps done.")
    checkpoint_step: StepNumber | None = optional("Step of the newest committed checkpoint.")
    progress: Progress | None = optional(
        "Last progress, from process 0: the operator may not have polled it before the process ended."
    )
    saved: Saved | None = optional(
        "After a preemption notice. `step`: the last step was saved; `inFlight`: only the save in flight was "
        "saved; `none`: neither."
    )
    epoch_attempt: int | None = optional("If fenced: attempt of the start that owns the root.", ge=0)
    peer_lost: int | None = optional(
        "Index of the process that ended first and made this process end: that process has the cause.", ge=0
    )
    others_missing: bool | None = optional(
        "Whether the process gave up waiting for the others at the start: they, or their pods, have the cause."
    )
    seconds: GoodputSeconds | None = optional("Every second of the process, by cause.")
    time: Timestamp = Field(description="When the process ended.")
