"""Receives the reports of the loop; the log, ``/status``, ``/metrics`` and ``/healthz`` are made from them.

A report only sets a few fields under a lock; documents are built in the thread of the request that asks for them. Every count of a run is
a function of its steps, so no count is carried over a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from halcyon.telemetry.checkpoint_reports import CheckpointReports
from halcyon.telemetry.clock import Clock, microseconds, process_age_seconds, timestamp
from halcyon.telemetry.evaluation_reports import EvaluationReports
from halcyon.telemetry.health import Health, HealthLimits
from halcyon.telemetry.log import EventLog, RunIdentity
from halcyon.telemetry.observation import Observation, RunPlan, StepReport
from halcyon.telemetry.profile_reports import ProfileReports
from halcyon.telemetry.run_state import RunState
from halcyon.telemetry.termination import STACKS_LENGTH, clip
from halcyon.telemetry.tokenizing import SourceForm, TokenizedSource, fields
from halcyon.telemetry.watch_reports import WatchReports
from halcyon_api.spec.determinism import InEffect
from halcyon_api.status.progress import ProgressReport, Stage, StoreWait, StoreWaitFor, TerminationReport


class RunReporter(CheckpointReports, EvaluationReports, ProfileReports, WatchReports):
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
        clock = clock or Clock()
        age = process_age_seconds() if age_seconds is None else age_seconds
        self.began = clock.wall() - age
        self._started_at = timestamp(self.began)
        super().__init__(identity, log, clock, RunState(plan, clock, limits or HealthLimits(), clock.monotonic() - age, work))

    def started(self, **details: Any) -> None:
        """Report the start of the process; ``details`` are further fields of the event."""
        self._event("start", **details)

    def stage(self, stage: Stage) -> None:
        """Report the stage that the loop enters. Until the first step, the time of each stage counts as start-up."""
        with self._lock:
            self._run.enter(stage)
        if stage == "saving":
            for listener in self._listeners:
                listener.hurry()

    def knows_flops(self, flops_per_token: float) -> None:
        """Set the floating-point operations of training on one token, forward and backward."""
        with self._lock:
            self._run.plan = replace(self._run.plan, flops_per_token=flops_per_token)

    def attends(self, choices: Mapping[str, str]) -> None:
        """Report the implementations of attention that a compiled program uses, each with the reason of its choice. For any thread."""
        with self._lock:
            new = {name: reason for name, reason in choices.items() if name not in self._run.facts.attention}
            self._run.facts.attention = (*self._run.facts.attention, *new)
        for name, reason in new.items():
            self._event("attention", implementation=name, reason=reason)

    def knows_determinism(self, found: InEffect) -> None:
        """Report whether the steps of this process give the same bits when they are repeated."""
        with self._lock:
            self._run.facts.determinism = found.determinism
        self._event("determinism", determinism=found.determinism, meaning=found.meaning)

    def planned(self, sentence: str, fields: Mapping[str, Any]) -> None:
        """Report how a compiled step uses the devices. For any thread.

        Args:
            sentence: The plan in one line.
            fields: The other fields of the event ``plan``.
        """
        with self._lock:
            self._run.facts.plan = sentence
        self._event("plan", plan=sentence, **fields)

    def placed(self, fields: Mapping[str, Any]) -> None:
        """Report what the process group trains on, and where its run comes from: the fields of the event ``placed``."""
        self._event("placed", **fields)

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
            self._run.facts.tokenized_at, self._run.facts.paused_seconds = now, 0.0
            due = self._run.tokenizing.update(built, now)
        if due:
            self._event("tokenized", **fields(built))

    def reads(self, notes: Iterable[SourceForm]) -> None:
        """Report the forms of the sources of conversations."""
        for note in notes:
            self._event(
                "source", source=note.source, form=note.form, rows=note.rows, rejected_rows=note.rejected_rows, message=note.message
            )

    def resumed(self, step: int, *, path: str | None = None, fallback_reason: str | None = None, head_loss: str | None = None) -> None:
        """Report that the state is ready, at the end of the stage ``restoring``.

        Args:
            step: Steps already done; 0 for a new state.
            path: Path of the restored checkpoint below the root.
            fallback_reason: Why newer checkpoints did not verify; None if there were none.
            head_loss: Why HEAD was rebuilt from the checkpoints; None if it was not.
        """
        with self._lock:
            self._run.facts.resumed_step = step
            self._run.facts.fallback_reason = clip(fallback_reason) if fallback_reason else None
            self._run.facts.head_loss = clip(head_loss) if head_loss else None
        self._event("restored", step=step, path=path, seconds=self._seconds_in_stage())
        if head_loss:
            self._event("headRebuilt", step=step, reason=head_loss)
        if fallback_reason:
            self._event("fallback", step=step, reason=fallback_reason)

    def step_done(self, report: StepReport) -> None:
        """Report the end of a step. The loop may report it one step late, and must not wait for the device before it reports."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            run = self._run
            before = run.pace.last_ended
            first = run.step_ended(report, now, wall)
            speed, eta = run.tokens_per_second, run.eta_seconds(report.step)
            plan, startup = run.plan, run.startup.parts
        if first:
            self._compiled(report.step, startup)
        due = report.step % plan.log_every_steps == 0 or report.step >= plan.steps
        if due or self._listeners:
            fields: dict[str, Any] = {
                "step": report.step,
                "loss": report.loss,
                "gradient_norm": report.gradient_norm,
                "learning_rate": report.learning_rate,
                "tokens": report.tokens,
                "tokens_per_second": speed,
                "eta_seconds": eta,
                "data_wait_seconds": microseconds(report.data_wait_seconds),
            }
            fields |= {name: value for name, value in report.metrics.items() if name not in fields}
            if due:
                self._event("step", **fields)
            self._tell("step", fields if before is None else {**fields, "seconds": microseconds(now - before)})

    def waited_for_batch(self, seconds: float) -> None:
        """Report the time in seconds that the loop waited for its current batch."""
        with self._lock:
            self._run.account.waited_for_data(self._run.facts.stage, self._clock.monotonic(), seconds)

    def skipped(self, step: int, reason: str) -> None:
        """Report that the update of a step was dropped."""
        with self._lock:
            self._count(skipped=1)
        self._event("skipped", step=step, reason=reason)

    def rolled_back(self, bad_step: int, step: int, batches: int, reason: str) -> None:
        """Report that the run went back to the checkpoint of ``step`` because of ``bad_step``, and leaves out this number of batches."""
        with self._lock:
            self._run.went_back(step)
            self._count(rollbacks=1)
        self._event("rolledBack", step=bad_step, to_step=step, batches=batches, reason=reason)

    def hung(self, seconds: float, limit_seconds: float, stacks: str, path: str | None) -> None:
        """Report that the process hangs, with the stacks of all threads and the address where they are stored. For any thread."""
        self._event(
            "hung", seconds=microseconds(seconds), limit_seconds=microseconds(limit_seconds), path=path, stacks=clip(stacks, STACKS_LENGTH)
        )

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
            self._run.facts.waiting = StoreWait(what=what, until=until)
            self._run.facts.waits_until = self._clock.monotonic() + seconds
        self.warning(f"{message}; the process tries again, with credentials read again, until {until}{end}")

    def store_wait_ended(self, seconds: float, answers: bool) -> None:
        """Report that the retries ended, after this number of seconds, and whether the store answers again."""
        with self._lock:
            self._run.facts.waiting = self._run.facts.waits_until = None
        if answers:
            self.warning(f"the store answers again after {seconds:.0f} s")

    def paused(self, seconds: float) -> None:
        """Report the time in seconds that the machine was paused, or did not run this process. For any thread."""
        with self._lock:
            self._run.facts.paused_seconds += seconds

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

    def report(self) -> ProgressReport:
        """The document of ``/status``."""
        return self.observe().report

    def health(self) -> Health:
        """The verdict of ``/healthz``."""
        with self._lock:
            return self._run.health

    def observe(self) -> Observation:
        """A consistent snapshot."""
        with self._lock:
            snapshot = self._run.snapshot()
        return snapshot.observation(self.identity, self._started_at)
