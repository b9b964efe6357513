"""What a process knows of its run: one frozen value. Each report replaces it, and each reader gets it as it is.

So all numbers of one answer are of one moment. Every count of a run is a function of its steps, so no count is carried
over a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from halcyon.host.clock import microseconds, timestamp
from halcyon.telemetry.health import Health, judge
from halcyon.telemetry.log_line import RunIdentity
from halcyon.telemetry.times import STEPS_UNDER_WAY, Durations, Pace, TimeAccount
from halcyon.telemetry.watched import WatchedParameter
from halcyon_api.checkpoint_documents import CommittedStep, EvaluationRecord
from halcyon_api.status import progress
from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.progress import ReportedMetric, finite
from halcyon_api.status.sources import Built


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run, from which its counts are computed."""

    steps: int
    """Steps of the whole run."""
    tokens_before: Callable[[int], int]
    """Tokens of the first n steps, as a function of n, over all devices: the sum of batch size x sequence length."""
    log_every_steps: int = 1
    size_of: Callable[[int], Hashable] = lambda step: None
    """Size of a step by its number, counted from 0: steps of the same size run the same program."""
    peak_flops_per_second: float | None = None
    """Peak of all devices of the run together; None if it is not known."""


@dataclass(frozen=True)
class StepReport:
    """The numbers of a step, fetched to the host."""

    step: int
    """Steps done, including this one."""
    loss: float
    """Training loss before the update, nats per token; the conversion of the device's float32 to a float is exact."""
    gradient_norm: float
    learning_rate: float
    tokens: float
    """Sum of the loss weights: targets that counted in the loss."""
    data_wait_seconds: float
    """Time that the step waited for its batch."""
    metrics: Mapping[str, ReportedMetric]
    """Further metrics of the objective by name, each per unit of weight."""


@dataclass(frozen=True)
class State:
    """What a process knows of its run.

    A field or property with the name of a field of `halcyon_api.status.progress.Progress` is shown there. Times named
    ``…_time`` are seconds since 1970; the others are of a monotonic clock.
    """

    identity: RunIdentity
    run_plan: RunPlan
    floor_seconds: float
    """The smallest limit of a step in a healthy process."""
    began_time: float
    """Start of the process."""
    account: TimeAccount
    stage_began: float
    now: float = 0.0
    now_time: float = 0.0
    """The moment for which a reader, or a report, got the state, on both clocks."""
    stage: progress.Stage = "starting"
    pace: Pace = field(default_factory=Pace)
    durations: Durations = field(default_factory=Durations)

    in_place: int = 0
    ends_in_place: list[progress.ReportedEnd] | None = None
    resumed_step: int | None = None
    last_step: StepReport | None = None
    batches: int = 0
    """Batches done, in a run of task ``evaluate``."""
    first_step_time: float | None = None
    last_step_time: float | None = None
    flops_per_token: float | None = None
    """Floating-point operations of training on one token, forward and backward."""
    attention: str | None = None
    determinism: str | None = None
    plan: str | None = None
    watched: tuple[WatchedParameter, ...] = ()
    """Numbers of the last watched step."""
    own_work_seconds: float | None = None
    """The last measurement of `halcyon.run.own_work`."""
    slow: progress.SlowProcess | None = None

    sources: Mapping[str, Built] = field(default_factory=dict)
    """Progress of the sources that this process has tokenized, or is tokenizing, by name."""
    tokenized_at: float = -math.inf
    paused_seconds: float = 0.0
    """Time that the machine was paused since a step or a stage last ended."""
    waiting: progress.StoreWait | None = None
    waits_until: float | None = None

    evaluation_loss: float | None = None
    bits_per_byte: float | None = None
    average_loss: float | None = None
    """Loss of the average of the parameters on the held-out part, in nats per token; None without an average."""
    best: EvaluationRecord | None = None
    stopped_early: bool | None = None
    evaluated: progress.Evaluated | None = None
    tasks: dict[str, float] | None = None

    checkpoint: progress.CheckpointProgress | None = None
    checkpoint_time: float | None = None
    """When this process learned of the newest checkpoint."""
    checkpoint_error: str | None = None
    late_save: progress.LateSave | None = None
    late_save_seconds: float | None = None
    fallback_reason: str | None = None
    head_loss: str | None = None
    save_interval_seconds: float | None = None
    exported_step: int | None = None
    audited_step: int | None = None

    # Counts of this process since its start, for counters.
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of the events that are counted (`halcyon.telemetry.events`)."""
    processed_steps: int = 0
    processed_tokens: int = 0
    data_wait_seconds: float = 0.0
    evaluations: int = 0
    checkpoint_save_seconds: float = 0.0
    """Sum of the times from the beginning of a save to its commit."""
    checkpoint_blocked_seconds: float = 0.0
    """Time that the loop was blocked by saves."""

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed.

        Raises:
            TypeError: There is no such field.
        """
        return replace(self, **changes)

    def plus(self, **numbers: float) -> Self:
        """A copy with these numbers added to its fields."""
        return self.but(**{name: getattr(self, name) + number for name, number in numbers.items()})

    def counted(self, name: str) -> Self:
        """A copy with one more event under the name of its counter."""
        return self.but(counts={**self.counts, name: self.counts.get(name, 0) + 1})

    def entered(self, stage: progress.Stage) -> State:
        """A stage begins now."""
        now = self.now
        account = self.account.until(self.stage, now)
        state = self.but(stage=stage, stage_began=now, paused_seconds=0.0, account=account)
        if stage == account.work and stage in ("tokenizing", "sampling") and self.first_step_time is None:
            # Such a task has no first step.
            return state.but(account=account.until(stage, now, stepped=True), first_step_time=self.now_time)
        return state

    def step_ended(self, report: StepReport) -> State:
        """A step ends now, or several since the last report."""
        now, compiling, steps = self.now, self.stage == "compiling", report.step - self.step
        stage_began = now if compiling else self.stage_began
        worked_since = max(self.pace.last_ended or 0.0, stage_began) + self.paused_seconds
        return self._worked(
            self.step,
            report.step,
            stage="training" if compiling else self.stage,
            stage_began=stage_began,
            last_step=report,
            account=self.account.until(self.stage, now, stepped=True, step=report.step),
            durations=self.durations.step_ended(self.run_plan.size_of(report.step - 1), now - worked_since, steps),
            pace=self.pace.step_ended(now, report.step, report.data_wait_seconds, since=worked_since),
            data_wait_seconds=self.data_wait_seconds + report.data_wait_seconds,
        )

    def batch_ended(self) -> State:
        """A batch of a run of task ``evaluate`` ends now."""
        now, batches = self.now, self.batches + 1
        return self._worked(
            self.batches,
            batches,
            stage="evaluating" if self.stage == "compiling" else self.stage,
            stage_began=now,
            batches=batches,
            account=self.account.until(self.stage, now, stepped=True) if self.first_step_time is None else self.account,
            pace=self.pace.step_ended(now, batches),
        )

    def _worked(self, before: int, after: int, **changes: Any) -> Self:
        """The steps, or batches, between these two numbers end now."""
        tokens = self.run_plan.tokens_before
        return self.but(
            paused_seconds=0.0,
            last_step_time=self.now_time,
            first_step_time=self.now_time if self.first_step_time is None else self.first_step_time,
            processed_steps=self.processed_steps + after - before,
            processed_tokens=self.processed_tokens + tokens(after) - tokens(before),
            **changes,
        )

    def went_back(self, step: int) -> State:
        """The run goes back now to an earlier step.

        The steps since then are lost; the speed is measured anew from there.
        """
        last = self.last_step
        return self.but(
            account=self.account.went_back(self.stage, step, self.now),
            last_step=None if last is None else replace(last, step=step),
            pace=self.pace._replace(ends=(), last_ended=None),  # the next step does not follow on the last ones
        )

    def newest(self, committed: CommittedStep | None) -> State:
        """The process learns now which checkpoint is the newest; None: there is none."""
        if committed is None:
            return self.but(checkpoint=None, checkpoint_time=None)
        shown = {name: getattr(committed, name) for name in ("step", "path", "time", "size_bytes")}
        checkpoint = progress.CheckpointProgress(attempt=committed.epoch.attempt, **shown)
        return self.but(checkpoint=checkpoint, checkpoint_time=self.now_time)

    def verified(self, step: int) -> State:
        """A checkpoint was read back after its commit and is intact."""
        known = self.checkpoint
        if known is None or known.step != step:
            return self
        return self.but(checkpoint=known.but(verified=True))

    @property
    def step(self) -> int:
        """Steps done, as far as reported; batches in a run that evaluates."""
        return self.last_step.step if self.last_step else (self.batches or self.resumed_step or 0)

    @property
    def steps(self) -> int:
        """Steps of the whole run, or its batches."""
        return self.run_plan.steps

    @property
    def tokens(self) -> int:
        """Tokens trained on, or evaluated."""
        return self.run_plan.tokens_before(self.step)

    @property
    def loss(self) -> float | None:
        """Training loss of the last step, nats per token; None before the first one."""
        return self.last_step and self.last_step.loss

    @property
    def tokens_per_second(self) -> float | None:
        """Speed over the last steps, without evaluations and saves between them; None before the second step."""
        speed = self.pace.steps_per_second
        if speed is None:
            return None
        step, tokens_before = max(1, self.last_step.step if self.last_step else 1), self.run_plan.tokens_before
        return microseconds(speed * (tokens_before(step) - tokens_before(step - 1)))

    @property
    def eta_seconds(self) -> float | None:
        """Time from the end of the last step to the end of the run, with the share of evaluations and saves so far;
        None before the second step.
        """
        speed = self.pace.steps_per_second
        if not speed:
            return None
        known = self.account.by_cause
        others, productive = known["evaluation"] + known["audit"] + known["save_blocking"], known["productive_step"]
        share = others / productive if productive else 0.0
        return microseconds(max(0, self.run_plan.steps - self.step) / speed * (1 + share))

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation of all devices of the run together; None if it is not known."""
        speed, peak = self.tokens_per_second, self.run_plan.peak_flops_per_second
        return (
            None if speed is None or self.flops_per_token is None or not peak else speed * self.flops_per_token / peak
        )

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation."""
        return self.best and self.best.best_step

    @property
    def best_evaluation(self) -> float | None:
        """Its value."""
        return self.best and self.best.best_value

    def shown(self, name: str) -> Any:
        """The field of this name, or ``FIELD.FIELD``; else the metric of the objective in the last step, if it is
        finite: of one number for each layer, the greatest.
        """
        own, _, inner = name.partition(".")
        if hasattr(self, own):
            found = getattr(self, own)
            return found and getattr(found, inner) if inner else found
        value = self.last_step and self.last_step.metrics.get(name)
        return finite(max(value) if isinstance(value, tuple) else value)

    @property
    def startup_seconds(self) -> progress.StartupSeconds:
        """The parts of the start that have ended."""
        return self.account.startup

    @property
    def seconds(self) -> GoodputSeconds:
        """Every second of the process until `now`, by cause."""
        return self.account.until(self.stage, self.now).seconds

    @property
    def steps_in_progress(self) -> tuple[tuple[float, ...], ...]:
        """For each size of the steps that may be in progress, the durations of the last steps of that size."""
        done = self.last_step.step if self.last_step else 0
        return self.durations.of(
            dict.fromkeys(self.run_plan.size_of(step) for step in range(done, done + STEPS_UNDER_WAY))
        )

    @property
    def health(self) -> Health:
        """Whether the process is healthy at `now`."""
        return judge(
            self.stage,
            max(self.stage_began, self.tokenized_at) if self.stage == "tokenizing" else self.stage_began,
            self.pace.last_ended,
            self.steps_in_progress,
            self.now,
            self.floor_seconds,
            paused_seconds=self.paused_seconds,
            waits_until=self.waits_until,
        )


def progress_report(state: State) -> progress.ProgressReport:
    """The document of ``/status``, except for the requests for a checkpoint. A field with the name of one of the state
    has its value.
    """
    return progress.ProgressReport(
        **vars(state.identity),
        **{name: getattr(state, name) for name in progress.ProgressReport.model_fields if hasattr(state, name)},
        started_at=timestamp(state.began_time),
        first_step_at=None if state.first_step_time is None else timestamp(state.first_step_time),
        last_step_at=None if state.last_step_time is None else timestamp(state.last_step_time),
        time=timestamp(state.now_time),
        progress=_progress(state),
    )


def _progress(state: State) -> progress.Progress:
    """Each field has the value of the state's field of its name; the others are metrics of the objective."""
    values: dict[str, Any] = {}
    for name in progress.Progress.model_fields:
        value = state.shown(name)
        if isinstance(value, float):
            value = finite(microseconds(value) if name.endswith("_seconds") else value)
        values[name] = value
    return progress.Progress(**values)
