"""Receives the reports of the loop; the log, ``/status``, ``/metrics`` and ``/healthz`` are made from them.

A report only sets a few fields under a lock; documents are built in the thread of the request that asks for them. Every count of a run is
a function of its steps, so no count is carried over a restart.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.clock import Clock, process_age_seconds, timestamp
from halcyon.telemetry.durations import Durations
from halcyon.telemetry.evaluating import LogInterval, numbers, with_source
from halcyon.telemetry.events import BY_NAME
from halcyon.telemetry.health import Health, HealthInputs, HealthLimits, judge
from halcyon.telemetry.log import EventLog, RunIdentity
from halcyon.telemetry.observation import Observation, RunPlan, StepReport, Tallies
from halcyon.telemetry.pace import Pace
from halcyon.telemetry.startup import Startup
from halcyon.telemetry.termination import STACKS_LENGTH, clip
from halcyon.telemetry.time_account import TimeAccount
from halcyon.telemetry.tokenizing import TokenizedSource, Tokenizing, fields
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.progress import (
    CheckpointProgress,
    Evaluated,
    Progress,
    ProgressReport,
    Stage,
    StoreWait,
    StoreWaitFor,
    TerminationReport,
)

if TYPE_CHECKING:
    from halcyon.evaluate.evaluation import Evaluation


@dataclass
class _State:
    stage: Stage = "starting"
    stage_began: float = 0.0
    tokenized_at: float = -math.inf
    resumed_step: int | None = None
    first_step_time: float | None = None
    last_step_time: float | None = None
    last_step: StepReport | None = None
    evaluation_loss: float | None = None
    bits_per_byte: float | None = None
    evaluated: Evaluated | None = None
    batches: int = 0
    checkpoint: CheckpointProgress | None = None
    checkpoint_time: float | None = None
    fallback_reason: str | None = None
    checkpoint_error: str | None = None
    save_interval_seconds: float | None = None
    attention: tuple[str, ...] = ()
    waiting: StoreWait | None = None
    waits_until: float | None = None
    paused_seconds: float = 0.0
    tallies: Tallies = field(default_factory=Tallies)


class RunReporter:
    """Records the reports of the loop, and answers from any thread.

    Args:
        identity: The process that reports.
        plan: The plan of the run, for its counts.
        log: The log of events.
        clock: Sources of time.
        limits: Limits of a healthy process.
        age_seconds: Age of the process now. Default: from the operating system.
        work: The stage of the run's productive work.
    """

    def __init__(
        self,
        identity: RunIdentity,
        plan: RunPlan,
        log: EventLog,
        *,
        clock: Clock | None = None,
        limits: HealthLimits | None = None,
        age_seconds: float | None = None,
        work: Stage = "training",
    ) -> None:
        self.identity = identity
        self.log = log
        self._plan = plan
        self._clock = clock or Clock()
        self._limits = limits or HealthLimits()
        self._lock = threading.Lock()
        self._pace = Pace()
        self._durations = Durations(plan.size_of)
        self._tokenizing = Tokenizing()
        self._batch_lines = LogInterval()
        age = process_age_seconds() if age_seconds is None else age_seconds
        began = self._clock.monotonic() - age
        self._started_at = timestamp(self._clock.wall() - age)
        self._startup = Startup(began)
        self._account = TimeAccount(began, work)
        self._work: Stage = work
        self._state = _State(stage_began=began)

    # Reports.

    def started(self, **details: Any) -> None:
        """Report the start of the process; ``details`` are further fields of the event."""
        self._event("start", **details)

    def stage(self, stage: Stage) -> None:
        """Report the stage that the loop enters. Until the first step, the time of each stage counts as start-up."""
        with self._lock:
            self._enter(stage, self._clock.monotonic())
            if stage == self._work == "tokenizing" and self._state.first_step_time is None:
                self._work_begins(self._clock.monotonic(), self._clock.wall())  # this task compiles nothing and has no first step

    def knows_flops(self, flops_per_token: float) -> None:
        """Set the floating-point operations of training on one token, forward and backward."""
        with self._lock:
            self._plan = replace(self._plan, flops_per_token=flops_per_token)

    def attends(self, choices: Mapping[str, str]) -> None:
        """Report the implementations of attention that a compiled program uses, each with the reason of its choice. For any thread."""
        with self._lock:
            new = {name: reason for name, reason in choices.items() if name not in self._state.attention}
            self._state.attention = (*self._state.attention, *new)
        for name, reason in new.items():
            self._event("attention", implementation=name, reason=reason)

    def joined(self, *, processes: int, devices: int) -> None:
        """Report that all processes have joined, at the end of the stage ``joining``."""
        self._event("joined", processes=processes, devices=devices, seconds=self._seconds_in_stage())

    def tokenized(self, built: TokenizedSource) -> None:
        """Report that more of a source's text is tokenized. For any thread, at any time.

        It does not change the stage: the loop reports ``tokenizing`` when it begins to wait for tokens. During that wait, each report is
        progress for the health.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._state.tokenized_at, self._state.paused_seconds = now, 0.0
            due = self._tokenizing.update(built, now)
        if due:
            self._event("tokenized", **fields(built))

    def resumed(self, step: int, *, path: str | None = None, fallback_reason: str | None = None) -> None:
        """Report that the state is ready, at the end of the stage ``restoring``.

        Args:
            step: Steps already done; 0 for a new state.
            path: Path of the restored checkpoint below the root.
            fallback_reason: Why newer checkpoints did not verify; None if there were none.
        """
        with self._lock:
            self._state.resumed_step = step
            self._state.fallback_reason = clip(fallback_reason) if fallback_reason else None
        self._event("restored", step=step, path=path, seconds=self._seconds_in_stage())
        if fallback_reason:
            self._event("fallback", step=step, reason=fallback_reason)

    def step_done(self, report: StepReport) -> None:
        """Report the end of a step. The loop may report it one step late, and must not wait for the device before it reports."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            state = self._state
            first = state.last_step is None
            before = state.last_step.step if state.last_step else (state.resumed_step or 0)
            steps = report.step - before
            if first:
                self._work_begins(now, wall)
            if state.stage == "compiling":
                state.stage, state.stage_began = "training", now
            state.last_step, state.last_step_time = report, wall
            since = max(self._pace.last_ended or 0.0, state.stage_began)
            self._durations.step_ended(report.step, now - since - state.paused_seconds, steps)
            state.paused_seconds = 0.0
            self._pace.step_ended(now, report.step, report.data_wait_seconds)
            speed, eta = self._tokens_per_second(), self._eta_seconds(report.step)
            state.tallies = replace(
                state.tallies,
                steps=state.tallies.steps + steps,
                tokens=state.tallies.tokens + self._plan.tokens_before(report.step) - self._plan.tokens_before(report.step - steps),
                data_wait_seconds=state.tallies.data_wait_seconds + report.data_wait_seconds,
            )
            startup = self._startup.parts
        if first:
            self._event("compiled", step=report.step, **{f"{part}_seconds": seconds for part, seconds in startup.items()})
        if report.step % self._plan.log_every_steps == 0 or report.step >= self._plan.steps:
            fields: dict[str, Any] = {
                "step": report.step,
                "loss": report.loss,
                "gradient_norm": report.gradient_norm,
                "learning_rate": report.learning_rate,
                "tokens": report.tokens,
                "tokens_per_second": speed,
                "eta_seconds": eta,
                "data_wait_seconds": _rounded(report.data_wait_seconds),
            }
            self._event("step", **fields, **{name: value for name, value in report.metrics.items() if name not in fields})

    def waited_for_batch(self, seconds: float) -> None:
        """Report the time in seconds that the loop waited for its current batch."""
        with self._lock:
            self._account.waited_for_data(self._state.stage, self._clock.monotonic(), seconds)

    def skipped(self, step: int, reason: str) -> None:
        """Report that the update of a step was dropped."""
        with self._lock:
            self._state.tallies = replace(self._state.tallies, skipped=self._state.tallies.skipped + 1)
        self._event("skipped", step=step, reason=reason)

    def hung(self, seconds: float, limit_seconds: float, stacks: str, path: str | None) -> None:
        """Report that the process hangs, with the stacks of all threads and the address where they are stored. For any thread."""
        self._event("hung", seconds=_rounded(seconds), limit_seconds=_rounded(limit_seconds), path=path, stacks=clip(stacks, STACKS_LENGTH))

    def evaluation(self, step: int, evaluation: Evaluation, *, source: str | None = None) -> None:
        """Report an evaluation of the held-out part after ``step`` steps: of one `source` (task ``evaluate``), or of all together."""
        with self._lock:
            if source is None:
                self._state.evaluation_loss = evaluation.loss
                self._state.bits_per_byte = evaluation.bits_per_byte
                self._state.tallies = replace(self._state.tallies, evaluations=self._state.tallies.evaluations + 1)
            elif (found := self._state.evaluated) is not None:
                self._state.evaluated = with_source(found, source, evaluation)
        self._event("evaluation", step=step, source=source, **numbers(evaluation))

    def evaluates(self, found: Evaluated, *, batches: int, batch_tokens: int, done: int = 0) -> None:
        """Set the work of a run of task ``evaluate``.

        Args:
            found: The checkpoint, and the sources that are already evaluated.
            batches: Batches of the whole run.
            batch_tokens: Tokens of a batch, over all devices.
            done: Batches that are already evaluated.
        """
        with self._lock:
            self._plan = replace(self._plan, steps=batches, tokens_before=lambda batch: batch * batch_tokens)
            self._state.evaluated, self._state.resumed_step, self._state.batches = found, done, done

    def evaluated_batch(self) -> None:
        """Report that the sums of one batch were fetched, in a run of task ``evaluate``."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            state = self._state
            first = state.first_step_time is None
            if first:
                self._work_begins(now, wall)
            if state.stage == "compiling":
                state.stage = "evaluating"
            state.batches += 1
            state.last_step_time = wall
            state.stage_began, state.paused_seconds = now, 0.0
            self._pace.step_ended(now, state.batches)
            tokens = self._plan.tokens_before(1)
            state.tallies = replace(state.tallies, steps=state.tallies.steps + 1, tokens=state.tallies.tokens + tokens)
            due = self._batch_lines.due(now, last=state.batches == self._plan.steps)
            line = {
                "batch": state.batches,
                "batches": self._plan.steps,
                "tokens_per_second": self._tokens_per_second(),
                "eta_seconds": self._eta_seconds(state.batches),
            }
            startup = self._startup.parts
        if first:
            self._event("compiled", step=line["batch"], **{f"{part}_seconds": seconds for part, seconds in startup.items()})
        if due:
            self._event("evaluating", **line)

    def saves_every(self, seconds: float | None) -> None:
        """Report the interval in seconds between saves that are made by time. For any thread."""
        with self._lock:
            self._state.save_interval_seconds = seconds

    def checkpoint(self, committed: CommittedStep, *, blocked_seconds: float | None = None, save_seconds: float = 0.0) -> None:
        """Report a committed checkpoint. For any thread.

        Args:
            committed: The checkpoint.
            blocked_seconds: Time that its save blocked the loop.
            save_seconds: Time from the beginning of its save to the commit.
        """
        progress = _checkpoint_progress(committed)
        with self._lock:
            self._state.checkpoint, self._state.checkpoint_time = progress, self._clock.wall()
            self._state.checkpoint_error = None
            tallies = self._state.tallies
            self._state.tallies = replace(
                tallies,
                checkpoints=tallies.checkpoints + 1,
                save_seconds=tallies.save_seconds + save_seconds,
                blocked_seconds=tallies.blocked_seconds + (blocked_seconds or 0.0),
            )
        self._event(
            "checkpoint",
            step=committed.step,
            path=committed.path,
            size_bytes=committed.size_bytes,
            blocked_seconds=None if blocked_seconds is None else _rounded(blocked_seconds),
        )

    def found_checkpoint(self, committed: CommittedStep) -> None:
        """Report the newest committed checkpoint at the start, made by an earlier process. It is neither counted nor logged."""
        progress = _checkpoint_progress(committed)
        with self._lock:
            self._state.checkpoint, self._state.checkpoint_time = progress, self._clock.wall()

    def verified_checkpoint(self, step: int) -> None:
        """Report that a checkpoint was read back after its commit and is intact. For any thread."""
        with self._lock:
            known = self._state.checkpoint
            if known is not None and known.step == step:
                self._state.checkpoint = known.model_copy(update={"verified": True})
        self._event("checkpointVerified", step=step)

    def checkpoint_failed(self, reason: str) -> None:
        """Report that a save failed, or that a committed checkpoint is damaged; shown until the next commit. For any thread."""
        with self._lock:
            self._state.checkpoint_error = clip(reason)
            self._state.tallies = replace(self._state.tallies, checkpoint_failures=self._state.tallies.checkpoint_failures + 1)
            step = self._state.last_step.step if self._state.last_step else (self._state.resumed_step or 0)
        self._event("checkpointFailed", step=step, reason=reason)

    def store_refuses(self, what: StoreWaitFor, message: str, seconds: float, *, end: str = "") -> None:
        """Report that a store denies access or does not answer, and that requests to it are retried. For any thread.

        Args:
            what: The data in the store, for `/status`.
            message: The failure, for the log.
            seconds: The longest duration of the retries.
            end: Added to the end of the message.
        """
        until = timestamp(self._clock.wall() + seconds)
        with self._lock:
            self._state.waiting = StoreWait(what=what, until=until)
            self._state.waits_until = self._clock.monotonic() + seconds
        self.warning(f"{message}; the process tries again, with credentials read again, until {until}{end}")

    def store_wait_ended(self, seconds: float, answers: bool) -> None:
        """Report that the retries ended, after this number of seconds, and whether the store answers again."""
        with self._lock:
            self._state.waiting = self._state.waits_until = None
        if answers:
            self.warning(f"the store answers again after {seconds:.0f} s")

    def paused(self, seconds: float) -> None:
        """Report the time in seconds that the machine was paused, or did not run this process. For any thread."""
        with self._lock:
            self._state.paused_seconds += seconds

    def warning(self, message: str) -> None:
        """Report a failure that costs only time. For any thread."""
        self._event("warning", message=clip(message))

    def ended(self, report: TerminationReport) -> None:
        """Report the end of the process, with the cause in its termination report."""
        if report.cause == "completed":
            self.stage("done")
            self._event("done", step=report.step, message=report.message)
        elif report.cause == "preempted":
            self._event("preempted", step=report.step, saved=report.saved, message=report.message)
        else:
            self._event("error", step=report.step, cause=report.cause, exit_code=report.exit_code, message=report.message)

    # Answers.

    def report(self) -> ProgressReport:
        """The document of ``/status``."""
        return self.observe().report

    def health(self) -> Health:
        """The verdict of ``/healthz``."""
        with self._lock:
            return self._health()

    def observe(self) -> Observation:
        """A consistent snapshot."""
        with self._lock:
            state = replace(self._state)
            sources = self._tokenizing.sources
            step = state.last_step.step if state.last_step else (state.batches or state.resumed_step or 0)
            tokens_per_second, eta = self._tokens_per_second(), self._eta_seconds(step)
            pace = self._pace
            tallies = replace(state.tallies, step_buckets=pace.buckets, step_seconds=pace.sum_seconds, data_wait_ratio=pace.wait_ratio)
            startup = self._startup.seconds
            health = self._health()
            seconds = self._account.until(state.stage, self._clock.monotonic())
            time = self._clock.timestamp()
        own: dict[str, Any] = dict(  # noqa: C408 - reads like the call that it is
            step=step,
            steps=self._plan.steps,
            tokens=self._plan.tokens_before(step),
            loss=_finite(state.last_step.loss if state.last_step else None),
            tokens_per_second=_finite(tokens_per_second),
            mfu=_finite(self._mfu(tokens_per_second)),
            eta_seconds=_finite(eta),
            evaluation_loss=_finite(state.evaluation_loss),
            bits_per_byte=_finite(state.bits_per_byte),
            evaluated=state.evaluated,
            save_interval_seconds=None if state.save_interval_seconds is None else _rounded(state.save_interval_seconds),
            attention=", ".join(state.attention) or None,
        )
        progress = Progress(**(_objective_metrics(state.last_step) | own))
        report = ProgressReport(
            run=self.identity.run,
            attempt=self.identity.attempt,
            restart=self.identity.restart,
            process_index=self.identity.process_index,
            stage=state.stage,
            started_at=self._started_at,
            resumed_step=state.resumed_step,
            first_step_at=None if state.first_step_time is None else timestamp(state.first_step_time),
            last_step_at=None if state.last_step_time is None else timestamp(state.last_step_time),
            startup_seconds=startup,
            seconds=seconds,
            time=time,
            progress=progress,
            checkpoint=state.checkpoint,
            fallback_reason=state.fallback_reason,
            checkpoint_error=state.checkpoint_error,
            waiting=state.waiting,
        )
        return Observation(
            report=report,
            last_step=state.last_step,
            first_step_time=state.first_step_time,
            last_step_time=state.last_step_time,
            checkpoint_time=state.checkpoint_time,
            tallies=tallies,
            sources=sources,
            health=health,
        )

    # With the lock held.

    def _enter(self, stage: Stage, now: float) -> None:
        self._startup.stage_ends(self._state.stage, now)
        self._account.stage_ends(self._state.stage, now)
        self._state.stage, self._state.stage_began, self._state.paused_seconds = stage, now, 0.0

    def _work_begins(self, now: float, wall: float) -> None:
        """From now on, the time in the stage of the run's work is productive."""
        self._state.first_step_time = wall
        self._startup.first_step_ends(self._state.stage, now)
        self._account.first_step_ends(self._state.stage, now)

    def _tokens_per_second(self) -> float | None:
        speed = self._pace.steps_per_second
        return None if speed is None else _rounded(speed * self._tokens_per_step())

    def _tokens_per_step(self) -> int:
        """Tokens of the last step; before it, of the first one."""
        step = max(1, self._state.last_step.step if self._state.last_step else 1)
        return self._plan.tokens_before(step) - self._plan.tokens_before(step - 1)

    def _eta_seconds(self, step: int) -> float | None:
        speed = self._pace.steps_per_second
        return _rounded(max(0, self._plan.steps - step) / speed) if speed else None

    def _mfu(self, tokens_per_second: float | None) -> float | None:
        if tokens_per_second is None or self._plan.flops_per_token is None or not self._plan.peak_flops_per_second:
            return None
        return tokens_per_second * self._plan.flops_per_token / self._plan.peak_flops_per_second

    def _health(self) -> Health:
        began = self._state.stage_began
        if self._state.stage == "tokenizing":
            began = max(began, self._state.tokenized_at)
        state, done = self._state, self._state.last_step.step if self._state.last_step else 0
        vitals = HealthInputs(
            state.stage,
            began,
            self._pace.last_ended,
            self._durations.of_steps_in_progress(done),
            paused_seconds=state.paused_seconds,
            waits_until=state.waits_until,
        )
        return judge(vitals, self._clock.monotonic(), self._limits)

    # Without the lock: writing a line may block.

    def _event(self, name: str, **fields: Any) -> None:
        if self.identity.process_index == 0 or BY_NAME[name].every_process:
            self.log.event(name, **fields)

    def _seconds_in_stage(self) -> float:
        with self._lock:
            return _rounded(max(0.0, self._clock.monotonic() - self._state.stage_began))


def _checkpoint_progress(committed: CommittedStep) -> CheckpointProgress:
    return CheckpointProgress(
        step=committed.step,
        attempt=committed.epoch.attempt,
        path=committed.path,
        time=committed.time,
        size_bytes=committed.size_bytes,
    )


def _objective_metrics(last_step: StepReport | None) -> dict[str, Any]:
    """The metrics of the objective that are fields of `Progress`; of one number for each layer, the greatest."""
    metrics = {} if last_step is None else last_step.metrics
    numbers = {name: max(value) if isinstance(value, tuple) else value for name, value in metrics.items()}
    return {name: _finite(value) for name, value in numbers.items() if name in Progress.model_fields}


def _finite(value: float | None) -> float | None:
    """None for infinity and NaN, which the report cannot express; the log has them."""
    return None if value is None or not math.isfinite(value) else float(value)


def _rounded(value: float) -> float:
    """Seconds to the microsecond: clocks are not more precise, and readers need no more."""
    return round(value, 6)
