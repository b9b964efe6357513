"""The reports of a trainer: the progress report of ``/status`` and the termination report of an ended container.

Both are JSON of bounded size. The operator does not trust them: it shows them, but reads the checkpoint root itself
before it decides.
"""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, StringConstraints, field_validator

from halcyon_api.base import AtLeastOne, RunName, StatusModel, Timestamp, optional
from halcyon_api.ends import EndCause
from halcyon_api.post_requests import MAX_REMEMBERED_REQUESTS, SaveRequestTaken
from halcyon_api.result_documents import REPORTED_TASKS
from halcyon_api.spec.sources import SourceName
from halcyon_api.status.goodput import GoodputSeconds

Stage = Literal[
    "starting",
    "joining",
    "tokenizing",
    "restoring",
    "compiling",
    "training",
    "evaluating",
    "sampling",
    "waiting",
    "auditing",
    "saving",
    "leaving",
    "done",
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
StepNumber = NonNegativeInt

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that Kubernetes keeps of a termination message."""


ReportedMetric = float | tuple[float, ...]
"""A number, or one number for each layer."""


def finite(value: float | None) -> float | None:
    """None for infinity and NaN, which ``/status`` cannot express; the log has them."""
    return None if value is None or not math.isfinite(value) else float(value)


class SourceEvaluation(StatusModel):
    """Result of an evaluation on the held-out part of one source."""

    source: SourceName
    """Name of the source."""
    loss: float | None = None
    """Nats per token."""
    bits_per_byte: float | None = None
    """Bits per byte of text; absent if the tokens have no text."""
    tokens: StepNumber = 0
    """Tokens predicted."""
    sequences: StepNumber = 0
    """Sequences evaluated."""


class Evaluated(StatusModel):
    """The checkpoint that a run of task `evaluate` evaluates, and the results so far."""

    run: RunName
    """The run of the checkpoint."""
    step: StepNumber
    """Steps done when the checkpoint was made."""
    path: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[A-Za-z0-9._/-]+$")]
    """Path below that run's root."""
    sources: list[SourceEvaluation] = Field(default_factory=list[SourceEvaluation], max_length=64)
    """Sources whose evaluation is complete, in the order of the document."""


class Progress(StatusModel):
    """Progress of the run. All counts are since the beginning of the run, over all attempts."""

    step: StepNumber = 0
    """Steps done. With task `evaluate`: batches evaluated."""
    steps: StepNumber = 0
    """Steps, or batches, of the whole run."""
    tokens: StepNumber = 0
    """Tokens trained on, or evaluated."""
    loss: float | None = None
    """Training loss of the last reported step, in nats per token."""
    tokens_per_second: float | None = None
    """Tokens trained on, or evaluated, per second, over the last steps."""
    mfu: float | None = None
    """Model FLOPs utilisation, between 0 and 1; absent if the device's peak is unknown."""
    eta_seconds: float | None = None
    """Seconds until the last step at the present speed."""
    evaluation_loss: float | None = None
    """Loss on the held-out part, in nats per token."""
    bits_per_byte: float | None = None
    """Loss on the held-out part, in bits per byte of text."""
    load_balance_loss: float | None = None
    """Models with experts: mean balance loss of the routers; 1 if every expert gets the same number of tokens."""
    z_loss: float | None = None
    """Objective `nextToken` with `zLoss`: mean z-loss, without its weight."""
    router_z_loss: float | None = None
    """Models with experts: mean z-loss of the routers."""
    expert_load_max: float | None = None
    """Models with experts: tokens of the busiest expert of any layer, divided by the mean of its layer."""
    preference_accuracy: float | None = None
    """Objective `preference`: share of pairs in the right order."""
    reward_margin: float | None = None
    """Its mean difference of rewards."""
    reward: float | None = None
    """Objective `policy`: mean reward."""
    evaluated: Evaluated | None = None
    """The checkpoint that a run of task `evaluate` evaluates."""
    tasks: dict[str, float] | None = optional(max_length=32)
    """Results by task."""
    save_interval_seconds: float | None = None
    """Seconds between saves, if saves are made by time."""
    exported_step: StepNumber | None = None
    """Step of the newest complete export, if the run has `export`."""
    attention: str | None = optional(max_length=64, pattern=r"^[a-z, ]*$")
    """The implementation of attention in use; several if the calls of the model differ."""
    determinism: str | None = optional(max_length=32, pattern=r"^[a-z]*$")
    """The `trainer.determinism` in effect."""
    best_step: StepNumber | None = None
    """Step of the best evaluation."""
    best_evaluation: float | None = None
    """Its value."""
    stopped_early: bool | None = None
    """Whether evaluations that did not improve ended the run."""
    plan: str | None = optional(max_length=200, pattern=r"^[A-Za-z0-9., ]*$")
    """How a step uses the devices: mesh, microbatches, remat policy and memory of one device."""

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

    step: StepNumber
    """Steps done when it was made."""
    attempt: NonNegativeInt
    """Attempt that made it."""
    path: Annotated[str, StringConstraints(max_length=1024)]
    """Path below the root."""
    time: Timestamp
    """When it was committed."""
    size_bytes: NonNegativeInt | None = None
    """Size of all its files, in bytes."""
    verified: bool | None = None
    """Whether it was read back in full after its commit, and every byte was right."""


class SlowProcess(StatusModel):
    """A process whose own work takes longer than that of the others (`recovery.straggler`)."""

    process: NonNegativeInt
    """Its index in the process group."""
    step: Annotated[int, Field(ge=0, le=2**53)]
    """Steps done at the last measurement."""
    ratio: NonNegativeFloat
    """Its time, as a multiple of the median of the others."""


StoreWaitFor = Literal["checkpointRoot", "tokenCache", "dataSource"]
"""Content of a store that a process waits for."""


class StoreWait(StatusModel):
    """A store that rejects the credentials or does not answer, and that the process retries."""

    what: StoreWaitFor
    """Content of the store."""
    until: Timestamp
    """When the process gives up."""


class LateSave(StatusModel):
    """A save in flight that takes longer than usual."""

    step: StepNumber
    """Steps done when it began."""
    since: Timestamp
    """When it began."""
    silent_since: Timestamp | None = None
    """When its store last completed a request, if it does not answer."""
    waits: bool
    """Whether the training waits for it."""


class StartupSeconds(StatusModel):
    """The time from process start to the first step, in seconds, by phase."""

    imports: NonNegativeFloat = 0.0
    """Interpreter start and imports."""
    join: NonNegativeFloat = 0.0
    """Waiting for the other processes."""
    data: NonNegativeFloat = 0.0
    """Waiting for the token caches, or building them."""
    restore: NonNegativeFloat = 0.0
    """Building or restoring the state."""
    compile: NonNegativeFloat = 0.0
    """Tracing, compiling and the first step."""


class EndInPlace(StatusModel):
    """The end of the processes of a process group, which started again in their pods."""

    number: AtLeastOne
    """Its place among such ends of these pods, counted from 1."""
    process: NonNegativeInt
    """Index of the process that ended first."""
    pod_lost: bool = False
    """Whether the pod of this process ended too, so that nobody knows more about its end."""
    at: Timestamp
    """When the supervisor of process 0 learned of it."""
    exit_code: int | None = optional(ge=0, le=255)
    """Exit code of the process; 128 and the number of a signal that ended it."""
    step: StepNumber = 0
    """Steps done, by the reports of all its processes."""


class TerminationReport(StatusModel):
    """The termination message of the trainer container, at most 4096 bytes of JSON."""

    cause: ReportedCause
    """Why the process ended."""
    exit_code: int = Field(ge=0, le=255)
    """The exit code that goes with the cause."""
    message: ShortText
    """One sentence for the user."""
    run: str = ""
    """Name of the run."""
    attempt: NonNegativeInt = 0
    """Attempt, assigned by the operator."""
    restart: NonNegativeInt = 0
    """JobSet restart inside the attempt."""
    process_index: NonNegativeInt = 0
    """Index of the process in its process group."""
    step: StepNumber = 0
    """Steps done."""
    checkpoint_step: StepNumber | None = None
    """Step of the newest committed checkpoint."""
    progress: Progress | None = None
    """Last progress, from process 0: the operator may not have polled it before the process ended."""
    saved: Saved | None = None
    """After a preemption notice. `step`: the last step was saved; `inFlight`: only the save in flight was saved;
    `none`: neither."""
    epoch_attempt: NonNegativeInt | None = None
    """If fenced: attempt of the start that owns the root."""
    peer_lost: NonNegativeInt | None = None
    """Index of the process that ended first and made this process end: that process has the cause."""
    others_missing: bool | None = None
    """Whether the process gave up waiting for the others at the start: they, or their pods, have the cause."""
    seconds: GoodputSeconds | None = None
    """Every second of the process, by cause."""
    ends_in_place: list[EndInPlace] | None = optional(max_length=16)
    """The last ends before it in its pod, oldest first, from its supervisor."""
    time: Timestamp
    """When the process ended."""


class ReportedEnd(EndInPlace):
    """The same, with what the process reported."""

    report: TerminationReport | None = None
    """Its termination report, if it wrote one."""


class ProgressReport(StatusModel):
    """The document of ``/status``."""

    run: str
    """Name of the run."""
    attempt: NonNegativeInt
    """Attempt, assigned by the operator."""
    restart: NonNegativeInt
    """JobSet restart inside the attempt."""
    process_index: NonNegativeInt
    """Index of the process in its process group."""
    in_place: NonNegativeInt = 0
    """Starts of the processes of these pods before this one."""
    ends_in_place: list[ReportedEnd] | None = optional(max_length=16)
    """The last such ends, oldest first."""
    stage: Stage
    """What the process is doing."""
    started_at: Timestamp
    """Start of the process."""
    resumed_step: StepNumber | None = None
    """Steps already done when this process resumed the run."""
    first_step_at: Timestamp | None = None
    """End of the first step of this process."""
    last_step_at: Timestamp | None = None
    """End of the last step of this process."""
    startup_seconds: StartupSeconds = Field(default_factory=StartupSeconds)
    """Durations of the phases of the start."""
    seconds: GoodputSeconds = Field(default_factory=GoodputSeconds)
    """Every second from the start of the process to `time`, by cause."""
    time: Timestamp | None = None
    """When the report was made."""
    progress: Progress = Field(default_factory=Progress)
    """Progress of the run."""
    checkpoint: CheckpointProgress | None = None
    """The newest committed checkpoint."""
    fallback_reason: ShortText | None = None
    """If an older checkpoint than the newest was restored: the reason."""
    head_loss: ShortText | None = None
    """If this start had to rebuild HEAD from the checkpoints: the reason."""
    checkpoint_error: ShortText | None = None
    """If the last save failed: the reason."""
    waiting: StoreWait | None = None
    """The store that the process waits for and retries, if any."""
    late_save: LateSave | None = None
    """The save in flight, if it takes longer than usual and another one is due."""
    slow: SlowProcess | None = None
    """The process that the others wait for, if any; reported by process 0."""
    save_requests: list[SaveRequestTaken] | None = optional(max_length=MAX_REMEMBERED_REQUESTS)
    """The last checkpoint requests that this process has recorded."""
