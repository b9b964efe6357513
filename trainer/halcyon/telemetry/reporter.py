"""Receives the reports of the loop; the log, ``/status``, ``/metrics`` and ``/healthz`` are made from them.

A report replaces the state under a lock, and writes an event without it, because that may block. Readers take the state
without the lock, and build documents in the thread of the request that asks for them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from halcyon.telemetry import event_fields
from halcyon.telemetry.clock import Clock, microseconds, process_age_seconds, timestamp
from halcyon.telemetry.events import BY_NAME
from halcyon.telemetry.health import Health, HealthLimits
from halcyon.telemetry.history.background import Listener, Row
from halcyon.telemetry.log import EventLog, RunIdentity
from halcyon.telemetry.state import RunPlan, State, StepReport, progress_report
from halcyon.telemetry.termination import STACKS_LENGTH, clip
from halcyon.telemetry.times import TimeAccount
from halcyon_api.checkpoint_documents import CommittedStep, EvaluationRecord, OriginRecord
from halcyon_api.local_times import local_time
from halcyon_api.result_documents import CHAT_CORE, CORE
from halcyon_api.spec.trainer import InEffect
from halcyon_api.status import progress

if TYPE_CHECKING:
    import numpy as np

    from halcyon.data.cache.build import Built
    from halcyon.data.source_notes import SourceNote
    from halcyon.telemetry.diagnostics import KeptProfile
    from halcyon.telemetry.evaluation import EvaluatedSets, Evaluation
    from halcyon_api.result_documents import TaskNumbers, TaskResults

EVENT_SECONDS = 10.0
"""Seconds between two log lines about a source that is tokenized, or about batches that are evaluated."""


class RunReporter:
    """Records the reports of the loop, and answers. Every method is for any thread.

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
        work: progress.Stage = "training",
    ) -> None:
        self.identity, self.log = identity, log
        self._clock = clock = clock or Clock()
        age = process_age_seconds() if age_seconds is None else age_seconds
        began = clock.monotonic() - age
        self._state = State(
            identity, plan, limits or HealthLimits(), clock.wall() - age, TimeAccount(began, work), began
        )
        self._lock = threading.Lock()
        self._logged_at: dict[str, float] = {}
        self._listeners: tuple[Listener, ...] = ()

    # What readers get.

    def observe(self) -> State:
        """The state at this moment."""
        state = self._state
        return state.but(now=self._clock.monotonic(), now_time=self._clock.wall())

    def report(self) -> progress.ProgressReport:
        """The document of ``/status``."""
        return progress_report(self.observe())

    def health(self) -> Health:
        """The verdict of ``/healthz``."""
        return self.observe().health

    def speed(self) -> dict[str, Any]:
        """The speed of this process, for a profile."""
        return event_fields.speed(self.observe())

    def listen(self, listener: Listener) -> None:
        """Pass all events from now on to a listener too, and the numbers of every step. For process 0.

        The first listener is called last: the hooks of a program that calls `halcyon.train` listen first, and may
        raise.
        """
        self._listeners = (listener, *self._listeners)

    def close_listeners(self, seconds: float) -> None:
        """End the listeners. All of them together have this number of seconds to keep what they have received."""
        deadline = self._clock.monotonic() + seconds
        for listener in self._listeners:
            listener.close(0.0)  # all of them begin with it now
        for listener in self._listeners:
            listener.close(max(0.0, deadline - self._clock.monotonic()))
        self._listeners = ()

    # The process and its run.

    def started(self, **details: Any) -> None:
        """Report the start of the process; ``details`` are further fields of the event."""
        self._event("start", **details)

    def knows(self, **facts: Any) -> None:
        """Set fields of `State`, which ``/status`` and ``/metrics`` show. No event is written."""
        self._change(lambda state: state.but(**facts))

    def stage(self, stage: progress.Stage) -> None:
        """Report the stage that the loop enters. Until the first step, the time of each stage counts as start-up.
        Reported again, it is progress for the health: the limit of the stage begins again.
        """
        self._change(lambda state: state.entered(stage, self._clock.monotonic(), self._clock.wall()))
        if self.identity.process_index == 0:
            self.log.stage(stage)
        if stage == "saving":
            for listener in self._listeners:
                listener.hurry()

    def attends(self, choices: Mapping[str, str]) -> None:
        """Report the implementations of attention that a compiled program uses, each with the reason of its choice."""
        with self._lock:
            known = self._state.attention.split(", ") if self._state.attention else []
            new = {name: reason for name, reason in choices.items() if name not in known}
            self._state = self._state.but(attention=", ".join([*known, *new]) or None)
        for name, reason in new.items():
            self._event("attention", implementation=name, reason=reason)

    def knows_determinism(self, found: InEffect) -> None:
        """Report whether the steps of this process give the same bits when they are repeated."""
        self.knows(determinism=found.determinism)
        self._event("determinism", determinism=found.determinism, meaning=found.meaning)

    def planned(self, sentence: str, fields: Mapping[str, Any]) -> None:
        """Report how a compiled step uses the devices.

        Args:
            sentence: The plan in one line.
            fields: The other fields of the event ``plan``.
        """
        self.knows(plan=sentence)
        self._event("plan", plan=sentence, **fields)

    def placed(self, fields: Mapping[str, Any]) -> None:
        """Report what the process group trains on, and where its run comes from: the fields of the event ``placed``."""
        self._event("placed", **fields)

    def branched(self, origin: OriginRecord) -> None:
        """Report the checkpoint of another run that this run begins with."""
        self._event(
            "branched",
            from_run=origin.run,
            from_root=origin.root,
            step=origin.step,
            weights_only=origin.weights_only,
            data_position=origin.data_position,
            changes=list(origin.changes),
            message=origin.sentence,
        )

    def joined(self, *, processes: int, devices: int) -> None:
        """Report that all processes have joined, at the end of the stage ``joining``."""
        self._event("joined", processes=processes, devices=devices, seconds=self._seconds_in_stage())

    def tokenized(self, built: Built) -> None:
        """Report that more of a source's text is tokenized.

        It does not change the stage: the loop reports ``tokenizing`` when it begins to wait for tokens. During that
        wait, each report is progress for the health.
        """
        now, source = self._clock.monotonic(), built.source
        self._change(
            lambda state: state.but(tokenized_at=now, paused_seconds=0.0, sources={**state.sources, source: built})
        )
        if self._line_is_due(source, now, last=built.finished):
            self._event("tokenized", **vars(built))

    def reads(self, notes: Iterable[SourceNote]) -> None:
        """Report the forms of the sources of conversations, and what is left out of sources."""
        for note in notes:
            self._event("source", **vars(note), message=note.message)

    def resumed(
        self,
        step: int,
        *,
        path: str | None = None,
        fallback_reason: str | None = None,
        head_loss: str | None = None,
        start: str | None = None,
    ) -> None:
        """Report that the state is ready, at the end of the stage ``restoring``.

        Args:
            step: Steps already done; 0 for a new state.
            path: Path of the restored checkpoint below the root.
            fallback_reason: Why newer checkpoints did not verify; None if there were none.
            head_loss: Why HEAD was rebuilt from the checkpoints; None if it was not.
            start: The start of the run that this is.
        """
        reasons = {"fallback_reason": fallback_reason, "head_loss": head_loss}
        self.knows(resumed_step=step, **{name: clip(reason) if reason else None for name, reason in reasons.items()})
        self._event("restored", step=step, path=path, start=start, seconds=self._seconds_in_stage())
        if head_loss:
            self._event("headRebuilt", step=step, reason=head_loss)
        if fallback_reason:
            self._event("fallback", step=step, reason=fallback_reason)

    # Steps.

    def step_done(self, report: StepReport) -> None:
        """Report the end of a step.

        The loop may report it one step late, and must not wait for the device before it reports.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            before, self._state = self._state, self._state.step_ended(report, now, wall)
            state = self._state
        if before.last_step is None:
            self._first_step_ended(state)
        due = report.step % state.run_plan.log_every_steps == 0 or report.step >= state.steps
        if not due and not self._listeners:
            return
        fields: dict[str, Any] = {
            "step": report.step,
            "loss": report.loss,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            "tokens": report.tokens,
            "tokens_per_second": state.tokens_per_second,
            "eta_seconds": state.eta_seconds,
            "data_wait_seconds": microseconds(report.data_wait_seconds),
        }
        if report.metrics:
            fields |= {name: value for name, value in report.metrics.items() if name not in fields}
        if due:
            self._log("step", fields)
        if self._listeners:
            seconds = state.pace.sum_seconds - before.pace.sum_seconds
            timed = before.pace.last_ended is not None
            self._tell("step", {**fields, "seconds": microseconds(seconds)} if timed else fields, report)

    def waited_for_batch(self, seconds: float) -> None:
        """Report the time in seconds that the loop waited for its current batch."""
        now = self._clock.monotonic()
        self._change(lambda state: state.but(account=state.account.until(state.stage, now, waited=seconds)))

    def skipped(self, step: int, reason: str) -> None:
        """Report that the update of a step was dropped."""
        self._change(lambda state: state.plus(skipped=1))
        self._event("skipped", step=step, reason=reason)

    def rolled_back(self, bad_step: int, step: int, batches: int, reason: str) -> None:
        """Report that the run went back to the checkpoint of ``step`` because of ``bad_step``, and leaves out this
        number of batches.
        """
        self._change(lambda state: state.went_back(step, self._clock.monotonic()).plus(rollbacks=1))
        self._event("rolledBack", step=bad_step, to_step=step, batches=batches, reason=reason)

    def audited(self, step: int, seconds: float) -> None:
        """Report an audit that found all numbers right, and its duration."""
        self._change(lambda state: state.plus(audits=1).but(audited_step=step))
        self._event("audited", step=step, seconds=round(seconds, 3))

    def corrupted(self, step: int, processes: Sequence[int], message: str) -> None:
        """Report that an audit found wrong numbers, and the processes that may have computed them."""
        self._change(lambda state: state.plus(corruptions=1))
        self._event("corrupted", step=step, processes=list(processes), message=message)

    def watched(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Report the numbers of a watched step. The log has all of them but the histograms.

        Args:
            step: Steps done, including this one.
            arrays: Float32 arrays by ``WHAT/STATISTIC/PARAMETER``, as `halcyon.step.watch.watched` names them.
        """
        groups = event_fields.watched_groups(arrays)
        self.knows(watched=event_fields.watched_parameters(groups))
        for (what, statistic), found in groups.items():
            if statistic != "histogram":
                rows = [values.tolist() for values in found.values()]
                self._event("watch", step=step, of=what, statistic=statistic, parameters=list(found), values=rows)
        self._tell("watched", {"step": step}, arrays)

    def profiled(self, step: int, steps: int, kept: KeptProfile, numbers: Mapping[str, Any]) -> None:
        """Report a stored profile.

        Args:
            step: Its first step.
            steps: Its number of steps.
            kept: What was stored.
            numbers: The numbers of the process (`speed`).
        """
        shown = {"mfu": numbers.get("mfu"), **event_fields.step_percentiles(numbers)}
        self._event("profiled", step=step, steps=steps, path=kept.path, size_bytes=kept.size_bytes, **shown)
        if kept.left_out:
            self._event(
                "warning",
                message=f"the profile of step {step} lacks {', '.join(kept.left_out)}, because they are too large",
            )

    # Evaluations.

    def evaluation(
        self, step: int, evaluation: Evaluation, *, source: str | None = None, average: Evaluation | None = None
    ) -> None:
        """Report an evaluation of the held-out part after ``step`` steps: of one `source` (task ``evaluate``), or of
        all together.

        `average` is the evaluation of the average of the parameters, if the run has one.
        """

        def change(state: State) -> State:
            if source is not None:
                known = state.evaluated
                return state.but(evaluated=known and event_fields.with_source(known, source, evaluation))
            losses = {"evaluation_loss": evaluation.loss, "average_loss": None if average is None else average.loss}
            return state.plus(evaluations=1).but(bits_per_byte=evaluation.bits_per_byte, **losses)

        self._change(change)
        fields = event_fields.evaluation_numbers(evaluation) | event_fields.average_numbers(average)
        self._event("evaluation", (evaluation, average), step=step, source=source, **fields)

    def evaluated_sets(self, step: int, sets: EvaluatedSets, average: Evaluation | None = None) -> None:
        """Report an evaluation while the run trains: of all sources together, and of each source and tag if there are
        results of them.

        `average` is the evaluation of the average of the parameters on all sources together, if the run has one.
        """
        for source, evaluation in sets.sources.items():
            self._event("evaluation", step=step, source=source, **event_fields.evaluation_numbers(evaluation))
        for tag, found in sets.by_tag.items():
            self._event("evaluation", step=step, tag=tag, **event_fields.averaged(found))
        if (found := sets.all_sources) is not None and len(sets.sources) > 1:
            self._event("macroEvaluation", step=step, loss=found.macro_loss, bits_per_byte=found.macro_bits_per_byte)
        self.evaluation(step, sets.whole, average=average)

    def task_done(self, step: int, numbers: TaskNumbers) -> None:
        """Report the result of a task on the model after ``step`` steps."""
        self._event("task", step=step, **event_fields.task_numbers(numbers))

    def tasks_done(self, results: TaskResults) -> None:
        """Report that all tasks are done on the model of a step; the event of each was written before."""
        self.knows(tasks=results.numbers)
        for name, value, tasks in (
            (CORE, results.core, results.core_tasks),
            (CHAT_CORE, results.chat_core, None),
        ):
            if value is not None:
                self._event("task", step=results.step, task=name, centred=value, tasks=tasks)

    def best(self, record: EvaluationRecord | None, *, stopped: bool) -> None:
        """Report the best evaluation so far, and whether the run ends because its evaluations did not improve."""
        self.knows(best=record, stopped_early=stopped or None)

    def evaluates(
        self, found: progress.Evaluated, *, batches: int, batch_tokens: int, done: int = 0, tasks: int = 0
    ) -> None:
        """Set the work of a run of task ``evaluate``.

        Args:
            found: The checkpoint, and the sources that are already evaluated.
            batches: Batches of the whole run.
            batch_tokens: Tokens of a batch, over all devices.
            done: Batches, and tasks, that are already evaluated.
            tasks: Tasks of the whole run; each counts as one more batch, without tokens.
        """
        plan = replace(
            self._state.run_plan, steps=batches + tasks, tokens_before=lambda batch: min(batch, batches) * batch_tokens
        )
        self.knows(run_plan=plan, evaluated=found, resumed_step=done, batches=done)

    def evaluated_batch(self) -> None:
        """Report that the sums of one batch were fetched, in a run of task ``evaluate``."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            before, self._state = self._state, self._state.batch_ended(now, wall)
            state = self._state
        if before.first_step_time is None:
            self._first_step_ended(state)
        if self._line_is_due("", now, last=state.batches == state.steps):
            speed = {"tokens_per_second": state.tokens_per_second, "eta_seconds": state.eta_seconds}
            self._event("evaluating", batch=state.batches, batches=state.steps, **speed)

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """Report what the model writes after a prompt, after ``step`` steps."""
        self._event("sample", step=step, prompt=event_fields.harmless(prompt), text=event_fields.harmless(text))

    # Checkpoints and exports.

    def checkpoint(
        self, committed: CommittedStep, *, blocked_seconds: float | None = None, save_seconds: float = 0.0
    ) -> None:
        """Report a committed checkpoint.

        Args:
            committed: The checkpoint.
            blocked_seconds: Time that its save blocked the loop.
            save_seconds: Time from the beginning of its save to the commit.
        """
        counts = {"save_seconds": save_seconds, "blocked_seconds": blocked_seconds or 0.0}
        newest = self._newest(committed)
        self._change(lambda state: state.plus(checkpoints=1, **counts).but(checkpoint_error=None, **newest))
        self._event(
            "checkpoint",
            committed,
            step=committed.step,
            path=committed.path,
            size_bytes=committed.size_bytes,
            blocked_seconds=None if blocked_seconds is None else microseconds(blocked_seconds),
        )

    def found_checkpoint(self, committed: CommittedStep) -> None:
        """Report the newest committed checkpoint at the start, made by an earlier process.

        It is neither counted nor logged.
        """
        self.knows(**self._newest(committed))

    def verified_checkpoint(self, step: int) -> None:
        """Report that a checkpoint was read back after its commit and is intact."""

        def change(state: State) -> State:
            known = state.checkpoint
            if known is None or known.step != step:
                return state
            return state.but(checkpoint=known.model_copy(update={"verified": True}))

        self._change(change)
        self._event("checkpointVerified", step=step)

    def checkpoint_failed(self, reason: str) -> None:
        """Report that a save failed, or that a committed checkpoint is damaged; shown until the next commit."""
        state = self._change(lambda state: state.plus(checkpoint_failures=1).but(checkpoint_error=clip(reason)))
        self._event("checkpointFailed", step=state.step, reason=reason)

    def exported(self, step: int, path: str, *, size_bytes: int, seconds: float) -> None:
        """Report a complete export.

        Args:
            step: Steps done when its checkpoint was made.
            path: Address of the folder.
            size_bytes: Bytes of the tensors.
            seconds: Time since the checkpoint was committed.
        """
        self._change(lambda state: state.plus(exports=1).but(exported_step=max(step, state.exported_step or 0)))
        self._event("exported", step=step, path=path, size_bytes=size_bytes, seconds=microseconds(seconds))

    def export_failed(self, step: int, reason: str) -> None:
        """Report that a try of an export failed."""
        self._change(lambda state: state.plus(export_failures=1))
        self._event("exportFailed", step=step, reason=clip(reason))

    # Failures, pauses and the end.

    def hung(self, seconds: float, limit_seconds: float, stacks: str, path: str | None) -> None:
        """Report that the process hangs, with the stacks of all threads and the address where they are stored."""
        times = {"seconds": microseconds(seconds), "limit_seconds": microseconds(limit_seconds)}
        self._event("hung", **times, path=path, stacks=clip(stacks, STACKS_LENGTH))

    def store_refuses(self, what: progress.StoreWaitFor, message: str, seconds: float, *, end: str = "") -> None:
        """Report that a store denies access or does not answer, and that requests to it are retried.

        Args:
            what: The data in the store, for `/status`.
            message: The failure, for the log.
            seconds: The longest duration of the retries.
            end: Added to the end of the message.
        """
        until = self._clock.wall() + seconds
        self.knows(
            waiting=progress.StoreWait(what=what, until=timestamp(until)), waits_until=self._clock.monotonic() + seconds
        )
        self.warning(f"{message}; the process tries again, with credentials read again, until {local_time(until)}{end}")

    def store_wait_ended(self, seconds: float, answers: bool) -> None:
        """Report that the retries ended, after this number of seconds, and whether the store answers again."""
        self.knows(waiting=None, waits_until=None)
        if answers:
            self.warning(f"the store answers again after {seconds:.0f} s")

    def paused(self, seconds: float) -> None:
        """Report the time in seconds that the machine was paused, or did not run this process."""
        self._change(lambda state: state.plus(paused_seconds=seconds))

    def warning(self, message: str) -> None:
        """Report a failure that costs only time."""
        self._event("warning", message=clip(message))

    def ended(self, report: progress.TerminationReport) -> None:
        """Report the end of the process, with the cause in its termination report."""
        if report.cause == "completed":
            self.stage("done")
            self._event("done", step=report.step, message=report.message)
        elif report.cause == "preempted":
            self._event("preempted", step=report.step, saved=report.saved, message=report.message)
        else:
            self._event(
                "error", step=report.step, cause=report.cause, exit_code=report.exit_code, message=report.message
            )

    # The parts of a report.

    def _change(self, change: Callable[[State], State]) -> State:
        """Replace the state, and return the new one."""
        with self._lock:
            self._state = change(self._state)
            return self._state

    def _newest(self, committed: CommittedStep) -> dict[str, Any]:
        """The fields of the state about the newest checkpoint."""
        shown = {name: getattr(committed, name) for name in ("step", "path", "time", "size_bytes")}
        return {
            "checkpoint": progress.CheckpointProgress(attempt=committed.epoch.attempt, **shown),
            "checkpoint_time": self._clock.wall(),
        }

    def _line_is_due(self, what: str, now: float, *, last: bool) -> bool:
        """Whether a line about a source, or about batches (""), is due: the first, the last, and one every
        `EVENT_SECONDS`.
        """
        with self._lock:
            if not last and now - self._logged_at.get(what, -math.inf) < EVENT_SECONDS:
                return False
            self._logged_at[what] = now
            return True

    def _event(self, name: str, report: object = None, **fields: Any) -> None:
        """Write a line of the log, and pass it to the listeners with the report that it was made from."""
        self._log(name, fields)
        self._tell(name, fields, report)

    def _log(self, name: str, fields: Mapping[str, Any]) -> None:
        if self.identity.process_index == 0 or BY_NAME[name].every_process:
            self.log.event(name, **fields)

    def _tell(self, name: str, fields: Mapping[str, Any], report: object) -> None:
        if self._listeners:
            row = Row(name, self._clock.wall(), fields, report)
            for listener in self._listeners:
                listener.record(row)

    def _first_step_ended(self, state: State) -> None:
        """Write the line about the end of the first step, with the parts of the start."""
        self._event(
            "compiled", step=state.step, **{f"{part}_seconds": seconds for part, seconds in state.account.start.items()}
        )

    def _seconds_in_stage(self) -> float:
        return microseconds(max(0.0, self._clock.monotonic() - self._state.stage_began))
