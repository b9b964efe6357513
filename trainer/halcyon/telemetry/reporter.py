"""Receives the reports of the loop; the log, ``/status``, ``/metrics`` and ``/healthz`` are made from them.

A report replaces the state under a lock, and writes an event without it, because that may block. Readers take the state
without the lock, and build documents in the thread of the request that asks for them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_snake

from halcyon.host.clock import Clock, microseconds, process_age_seconds, timestamp
from halcyon.telemetry.events import BY_NAME
from halcyon.telemetry.health import FLOOR_SECONDS, Health
from halcyon.telemetry.history.background import Listener, Row
from halcyon.telemetry.log import EventLog
from halcyon.telemetry.log_line import RunIdentity
from halcyon.telemetry.state import RunPlan, State, StepReport, progress_report
from halcyon.telemetry.termination import clip
from halcyon.telemetry.times import TimeAccount
from halcyon.telemetry.watched import watched_groups, watched_parameters
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.local_times import local_time
from halcyon_api.status import progress
from halcyon_api.status.sources import Built

if TYPE_CHECKING:
    import numpy as np

    from halcyon.checkpoint.results import SaveUnderWay

EVENT_SECONDS = 10.0
"""Seconds between two log lines about a source that is tokenized, or about batches that are evaluated."""


class RunReporter:
    """Records the reports of the loop, and answers. Every method is for any thread.

    Args:
        identity: The process that reports.
        plan: The plan of the run, for its counts.
        log: The log of events.
        clock: Sources of time.
        floor_seconds: The smallest limit of a step in a healthy process.
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
        floor_seconds: float = FLOOR_SECONDS,
        age_seconds: float | None = None,
        work: progress.Stage = "training",
    ) -> None:
        self.identity, self.log = identity, log
        self._clock = clock = clock or Clock()
        age = process_age_seconds() if age_seconds is None else age_seconds
        began = clock.monotonic() - age
        self._state = State(identity, plan, floor_seconds, clock.wall() - age, TimeAccount(began, work), began)
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

    def knows(self, **facts: Any) -> None:
        """Set fields of `State`, which ``/status`` and ``/metrics`` show. No event is written."""
        self._change(lambda state: state.but(**facts))

    def adds(self, **numbers: float) -> None:
        """Add to counts and seconds of `State`. No event is written."""
        self._change(lambda state: state.plus(**numbers))

    def event(self, name: str, report: object = None, /, **fields: Any) -> None:
        """Change the state as the event's row says, write a line of the log, and pass it to the listeners.

        Args:
            name: Name of the event (`halcyon.telemetry.events`).
            report: What it is made from. A field that is not given is its attribute of this name, if it has one.
            fields: Fields of the event, in snake_case. The step is that of the run if it is not given.
        """
        row = BY_NAME[name]
        for field in map(to_snake, row.fields):
            if field not in fields and hasattr(report, field):
                fields[field] = getattr(report, field)
            if field.endswith("seconds") and fields.get(field):
                fields[field] = microseconds(fields[field])
        if "step" in row.fields and "step" not in fields:
            fields = {"step": self._state.step, **fields}
        self._change(lambda state: row.changed(state, fields, report))
        self._log(name, fields)
        self._tell(name, fields, report)

    def stage(self, stage: progress.Stage) -> None:
        """Report the stage that the loop enters. Until the first step, the time of each stage counts as start-up.
        Reported again, it is progress for the health: the limit of the stage begins again.
        """
        self._change(lambda state: state.entered(stage))
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
            self.event("attention", implementation=name, reason=reason)

    def tokenized(self, built: Built) -> None:
        """Report that more of a source's text is tokenized.

        It does not change the stage: the loop reports ``tokenizing`` when it begins to wait for tokens. During that
        wait, each report is progress for the health.
        """
        source = built.source
        _, after = self._change(
            lambda state: state.but(
                tokenized_at=state.now, paused_seconds=0.0, sources={**state.sources, source: built}
            )
        )
        if self._line_is_due(source, after.now, last=built.finished):
            self.event("tokenized", **vars(built))

    # Steps.

    def step_done(self, report: StepReport) -> None:
        """Report the end of a step.

        The loop may report it one step late, and must not wait for the device before it reports.
        """
        before, state = self._change(lambda state: state.step_ended(report))
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
        self._change(lambda state: state.but(account=state.account.until(state.stage, state.now, waited=seconds)))

    def watched(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Report the numbers of a watched step. The log has all of them but the histograms.

        Args:
            step: Steps done, including this one.
            arrays: Float32 arrays by ``WHAT/STATISTIC/PARAMETER``, as `halcyon.step.watch.watched` names them.
        """
        groups = watched_groups(arrays)
        self.knows(watched=watched_parameters(groups))
        for (what, statistic), found in groups.items():
            if statistic != "histogram":
                rows = [values.tolist() for values in found.values()]
                self.event("watch", step=step, of=what, statistic=statistic, parameters=list(found), values=rows)
        self._tell("watched", {"step": step}, arrays)

    # Evaluations.

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
        before, state = self._change(State.batch_ended)
        if before.first_step_time is None:
            self._first_step_ended(state)
        if self._line_is_due("", state.now, last=state.batches == state.steps):
            speed = {"tokens_per_second": state.tokens_per_second, "eta_seconds": state.eta_seconds}
            self.event("evaluating", batch=state.batches, batches=state.steps, **speed)

    # Checkpoints and exports.

    def found_checkpoint(self, committed: CommittedStep | None) -> None:
        """Report which committed checkpoint is the newest, at the start and after the run has gone back. None: there is
        none.

        It is neither counted nor logged.
        """
        self._change(lambda state: state.newest(committed))

    def late_save(self, save: SaveUnderWay | None, *, waits: bool) -> bool:
        """Report the save in flight if it is late, and whether the training waits for it. False: it is not."""
        before, wall = self._state.late_save, self._clock.wall()
        if save is None or not save.is_late:
            self.knows(late_save=None, late_save_seconds=None)
            return False
        since, silent_since = timestamp(wall - save.seconds), timestamp(wall - save.silent_seconds)
        late = progress.LateSave(
            step=save.step, since=since, silent_since=silent_since if save.clause else None, waits=waits
        )
        self.knows(late_save=late, late_save_seconds=save.seconds)
        if before is None or (before.step, before.waits) < (save.step, waits):
            then = "the training waits for it" if waits else "the training goes on, and the next save begins after it"
            took = f"the save of step {save.step} takes longer than usual: {save.seconds:.0f} s so far{save.clause}"
            self.event("checkpointLate", step=save.step, waits=waits, message=f"{took}; {then}")
        return True

    # Failures, pauses and the end.

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

    def warning(self, message: str) -> None:
        """Report a failure that costs only time."""
        self.event("warning", message=clip(message))

    def ended(self, report: progress.TerminationReport) -> None:
        """Report the end of the process, with the cause in its termination report."""
        done = report.cause == "completed"
        if done:
            self.stage("done")
        self.event("done" if done else "preempted" if report.cause == "preempted" else "error", report)

    # The parts of a report.

    def _change(self, change: Callable[[State], State]) -> tuple[State, State]:
        """Replace the state by what `change` makes of it at this moment. Returns the state before, and the new one."""
        with self._lock:
            before, self._state = self._state, change(self.observe())
            return before, self._state

    def _line_is_due(self, what: str, now: float, *, last: bool) -> bool:
        """Whether a line about a source, or about batches (""), is due: the first, the last, and one every
        `EVENT_SECONDS`.
        """
        with self._lock:
            if not last and now - self._logged_at.get(what, -math.inf) < EVENT_SECONDS:
                return False
            self._logged_at[what] = now
            return True

    def _log(self, name: str, fields: Mapping[str, Any]) -> None:
        if self.identity.process_index == 0 or BY_NAME[name].every_process:
            self.log.event(name, in_place=self._state.in_place or None, **fields)

    def _tell(self, name: str, fields: Mapping[str, Any], report: object) -> None:
        if self._listeners:
            row = Row(name, self._clock.wall(), fields, report)
            for listener in self._listeners:
                listener.record(row)

    def _first_step_ended(self, state: State) -> None:
        """Write the line about the end of the first step, with the parts of the start."""
        self.event(
            "compiled", step=state.step, **{f"{part}_seconds": seconds for part, seconds in state.account.start.items()}
        )

    def seconds_in_stage(self) -> float:
        """Seconds since the stage began."""
        return microseconds(max(0.0, self._clock.monotonic() - self._state.stage_began))
