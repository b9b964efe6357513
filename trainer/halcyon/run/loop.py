"""The training loop: the steps up to the last one or a preemption notice, and the saves, evaluations and waits between
them.

The loop dispatches step n + 1 before it fetches the numbers of step n. So the device always has work, and the log is
one step late. A save and a wait for text must happen at the same step on all processes. Each process decides this from
values that are equal on all processes: the step number, the numbers of the step, or the control value that the step
combines over all processes. The step at which to leave after a notice is agreed outside the steps
(`halcyon.parallel.sync_point`), because the grace period is short.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from halcyon.checkpoint import SaveFailed
from halcyon.checkpoint.rollback import KeepsNewest, Return, batch_number, until
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.dataset import Dataset
from halcyon.host.errors import Diverged
from halcyon.parallel.preemption import ROUND_SECONDS, wait_together
from halcyon.run.best import BestWatch
from halcyon.run.callback import Callback
from halcyon.run.flip import flipped
from halcyon.run.last_save import NOTHING_TO_SAVE, LastSave, SaveTime, choose, longest_wait
from halcyon.run.setup import Setup
from halcyon.step.batch_source import BatchSource, HasNumbers, Waits
from halcyon.step.divergence import DivergenceWatch, RollBack
from halcyon.step.in_step import reported, reported_metrics
from halcyon.step.state import Model, TrainState
from halcyon.step.step import CONTROL_BITS, StepMetrics
from halcyon.step.validation import Validation
from halcyon.telemetry import StepReport
from halcyon_api.checkpoint_documents import DataPosition, EvaluationRecord
from halcyon_api.ends import EndCause
from halcyon_api.spec.recovery import RollbackSpec
from halcyon_api.status.progress import Stage

SAVE_WANTED = 1
"""Bit of the control value of a process that wants a checkpoint; while a save is deferred, of one whose last save is
in flight."""
TEXT_WANTED = 2
"""Bit of the control value of a process that does not have the text of the step after the next one yet."""
SNAPSHOT_WANTED = 4
"""Bit of the control value of a process for which a snapshot in memory costs little now."""


_LAST_SAVE_SECONDS = 600.0
"""Longest wait for the save in flight when a run stops as diverged or goes back."""


class _Stopped(Exception):
    """A notice came during an evaluation."""


@dataclass(frozen=True)
class TrainingEnd:
    """How a training ended without an error."""

    step: int
    """Steps done."""
    preempted: bool
    """Whether a notice ended the training before the last step. If not, all steps are committed."""
    last_save: LastSave | None = None
    """The last save after a notice; None without a notice, and if there was nothing to save."""
    found: str = ""
    """What a replay has found, in one sentence."""
    stopped: str | None = None
    """Why the training stopped before the last step, as a success; None if it did not."""
    model: Model | None = None
    """The model, if the library's user has given it."""

    def outcome(self, steps: int) -> tuple[EndCause, str, dict[str, Any]]:
        """The cause of the end, one sentence about it, and further fields of its report.

        Args:
            steps: Steps of the whole run.
        """
        if self.preempted and (self.last_save is None or not self.step):
            return EndCause.PREEMPTED, NOTHING_TO_SAVE, {}
        if self.last_save is not None:
            return EndCause.PREEMPTED, self.last_save.sentence(), {"saved": self.last_save.saved}
        done = f"all {self.step} steps are done and saved" if self.step != 1 else "the step is done and saved"
        if self.stopped is not None:
            done = f"stopped early after step {self.step} of {steps}, which is saved: {self.stopped}"
        return EndCause.COMPLETED, self.found or done, {}


@dataclass
class Training(Setup):
    """A training from its first step on: what it uses, and the loop (`run`)."""

    dataset: Dataset
    batches: BatchSource
    caches: BackgroundCaches
    last_step: int
    """The step after which the training ends."""
    callbacks: Sequence[Callback] = ()
    """The optional features of the run, in the order in which they are called."""
    evaluated: EvaluationRecord | None = None
    """The evaluations before the checkpoint that the run resumed from."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    def __post_init__(self) -> None:
        spec, program = self.place.spec, self.programs.program
        self._settings, self._program, self._reporter = spec.trainer, program, self.place.reporter
        self._policy, self._watch = spec.recovery.divergence, spec.telemetry.watch
        self._saves_before_evaluation = spec.checkpoint.save.before_evaluation
        audit = spec.recovery.audit
        self._flip = audit.flip_bit if audit is not None and self.checkpointer.start == 1 else None
        """A bit that changes in the memory of a process, to try out the audit."""
        self._divergence = DivergenceWatch(self._policy)
        self._best = BestWatch(self._settings.evaluation.best, self.evaluated)
        sharding = program.control_sharding
        mine = [np.full(len(sharding.addressable_devices), value, np.int32) for value in range(1 << CONTROL_BITS)]
        shape = (program.mesh.size,)
        self._controls = [jax.make_array_from_process_local_data(sharding, values, shape) for values in mine]
        self._evaluation = Validation(self._settings, program, self.dataset, self.batches)
        self._pending = None
        """The last dispatched step: steps done, its numbers on the device, the seconds that it waited for its batch,
        and the numbers of that batch."""
        self._save_asked = False
        """Whether any process has asked for a save since the last save began, in a step whose numbers are fetched."""
        self._deferred = False
        """Whether a save is due that begins when the save in flight has ended on all processes."""
        self._snapshot_asked, self._snapshot_step = False, 0
        """Whether any process has asked for a snapshot in memory since the last one, and the step of that."""
        self._saved_step = 0
        self._improved = False
        """Whether the last evaluation is the best so far."""
        self._text_wait_steps: set[int] = set()
        """Steps (counted from 0) for whose text some process may have to wait: all processes wait together before them.
        """
        self._waited_seconds = 0.0
        policies = (self._policy.non_finite, self._policy.spike.action if self._policy.spike else "")
        self._goes_back = "rollback" in policies
        if self._goes_back:
            self.checkpointer.add_reader(KeepsNewest(self._saved_by_step, self.checkpointer.committed))

    def run(self, state: TrainState, step: int, *, save_first: bool = False, is_saved: bool = True) -> TrainingEnd:
        """Train until the last step or a notice.

        Args:
            state: The state after ``step`` steps.
            step: Steps done.
            save_first: Save this state before the first step.
            is_saved: Whether a checkpoint has this state.

        Raises:
            Diverged: The run diverged, and its policy is to stop.
        """
        self._saved_step = step if is_saved and not save_first else -1
        if save_first or (not is_saved and self._saved_by_step(step)):
            self._save(state, step)
        while True:
            try:
                return self._completed(self._train(state, step))
            except RollBack as back:
                bad_step, reason = back.step, back.reason
            # After the handler, so that the error no longer holds the newest state: the restored one needs its memory.
            state, step = self._go_back(bad_step, reason)

    def _train(self, state: TrainState, step: int) -> TrainingEnd:
        """The steps from one state to the end.

        Raises:
            RollBack: The policy is to go back because of a step.
            Diverged: The policy is to stop.
        """
        first = step
        if self.dataset.streams:
            self._text_wait_steps = {first, first + 1}
        if step and self._evaluation_missing(step) and not self._evaluate(state, step):
            return self._leave(state, step)
        self._report_best()
        if step and not self._call_back(state, step):
            return self._leave(state, step)
        while self._best.stop is None and step < self.last_step:
            if self.sync_point.should_stop():
                return self._leave(state, step)
            if step in self._text_wait_steps:
                self._report_pending()
                held = functools.partial(self.dataset.holds, self._batch_number(step))
                if not self._wait("tokenizing", functools.partial(self.caches.progress.wait_for, held)):
                    return self._leave(state, step)
            for callback in self.callbacks:
                callback.before(step + 1, self._report_pending)
            coming = self.batches.coming(self._batch_number(step), state) if isinstance(self.batches, Waits) else None
            if coming is not None and not self._wait("waiting", coming):
                return self._leave(state, step)
            batch = self.batches.batch(self._batch_number(step), state)
            self._reporter.waited_for_batch(self.batches.last_wait_seconds)
            train_step = self.programs.of(batch, watched=self._watch is not None and self._watch.is_due(step + 1))
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics = train_step(state, batch, self._control(step))
            step += 1
            state = flipped(self._flip, step, self.place.processes.process_index, state)
            self._report_pending()
            of_batch = self.batches.numbers if isinstance(self.batches, HasNumbers) else {}
            self._pending = (step, metrics, self.batches.last_wait_seconds + self._waited_seconds, of_batch)
            self._waited_seconds = 0.0
            if step == first + 1:
                self._report_pending()
                self.programs.beside(self._evaluation.compile)
            for callback in self.callbacks:
                callback.dispatched(step, self._report_pending)
                callback.stepped(step, state, batch)
            self.programs.prepare(self.dataset.schedule, self._batch_number(step))
            evaluation_due = self._evaluation.is_due(step)
            save_due = self._save_asked or self.checkpointer.should_save(step)
            # The checkpoint of a step has the result of its evaluation, unless it must come before.
            if (save_due and not (evaluation_due and self._best.active)) or (
                evaluation_due and self._saves_before_evaluation
            ):
                self._save(state, step)
            if evaluation_due:
                if not self._evaluate(state, step):
                    return self._leave(state, step)
                if save_due or self._improved:
                    self._save(state, step, waits=self._improved)
            if not self._call_back(state, step):
                return self._leave(state, step)
            self._keep_in_memory(state, step)
        return self._finish(state, step)

    def again(self, state: TrainState, step: int) -> Iterator[tuple[int, float]]:
        """Compute the steps up to the last one once more, and nothing else.

        Args:
            state: The state after ``step`` steps.
            step: Steps done.

        Returns:
            Each step and its loss.
        """
        while step < self.last_step:
            batch = self.batches.batch(self._batch_number(step), state)
            state, metrics = self.programs.of(batch)(state, batch, self._controls[0])
            step += 1
            yield step, float(jax.device_get(metrics.loss))

    def _batch_number(self, step: int) -> int:
        """The number of the batch of a step, both counted from 0: the step, unless the run has gone back and left out
        batches.
        """
        return batch_number(self.checkpointer.skipped, step)

    def _saved_by_step(self, step: int) -> bool:
        """Whether the number of a step alone decides that its state is saved."""
        return self.checkpointer.should_save(step) or self._saved_exactly(step)

    def _saved_exactly(self, step: int) -> bool:
        """Whether the document needs the checkpoint of this step, not only one of about this step."""
        before_evaluation = self._saves_before_evaluation and self._evaluation.is_due(step)
        is_last = step == self.last_step
        called_back = any(one.saves and one.due(step, is_last=is_last) for one in self.callbacks)
        return self.checkpointer.is_promised(step) or before_evaluation or called_back

    def _go_back(self, bad_step: int, reason: str) -> tuple[TrainState, int]:
        """Go back to the last good checkpoint, past the batches since then.

        Returns:
            The state of the checkpoint, and its step.

        Raises:
            Diverged: The run has gone back too often, or has no checkpoint.
            SaveFailed: The save in flight does not end.
        """
        self._pending, self._save_asked, self._deferred, self._snapshot_asked = None, False, False, False
        times = sum(entry.batches > 0 for entry in self.checkpointer.skipped)
        settings = self._policy.rollback or RollbackSpec()
        if times >= settings.limit:
            raise Diverged(
                f"{reason}, and the run has gone back {times} times already (recovery.divergence.rollback.limit); "
                f"{self._newest_checkpoint()}; raise the limit, or make a new run with a lower learning rate"
            )
        self._reporter.stage("restoring")
        if not self.checkpointer.wait(_LAST_SAVE_SECONDS):  # it may be the one that an undisturbed run goes back to
            raise SaveFailed(
                f"{reason}, and the save in flight takes longer than {_LAST_SAVE_SECONDS:g} s, so the run cannot go "
                "back yet; start again to do these steps once more"
            )
        record = self.checkpointer.go_back(Return(bad_step, reason, settings.further_batches, self._saved_by_step))
        restored = record and self.checkpointer.restore(self._program.template)
        if record is None or restored is None:
            raise Diverged(
                f"{reason}, and there is no checkpoint yet to go back to; save earlier (checkpoint.save), or make a "
                "new run with a lower learning rate"
            )
        self._saved_step = restored.step
        self.numbers.went_back(restored.step)
        self._best = BestWatch(self._settings.evaluation.best, restored.checkpoint.evaluation)
        self._reporter.event("rolledBack", step=bad_step, to_step=restored.step, batches=record.batches, reason=reason)
        self._reporter.stage("training")
        return restored.state, restored.step

    def _finish(self, state: TrainState, step: int) -> TrainingEnd:
        self._report_pending()
        self._save(state, step, waits=True)
        self._reporter.stage("leaving")
        if step == self._saved_step and self._save_ended(waits=True):
            self.checkpointer.finish()
        else:
            left = self._leave(state, step)
            if left.last_save is None or left.last_save.saved != "step":
                return left
        stopped = self._best.stop if step < self.last_step else None
        return TrainingEnd(step, preempted=False, stopped=stopped, model=self._given_model(state))

    def _given_model(self, state: TrainState) -> Model | None:
        """The model, if the library's user has given it: other runs need its memory."""
        return None if self._program.first_model is None else state.model

    def _completed(self, ended: TrainingEnd) -> TrainingEnd:
        """The end of the training, after the callbacks of a run whose steps are all done have completed their work."""
        if ended.preempted or all(callback.finish() for callback in self.callbacks):
            return ended
        # All steps are saved. The next process group completes what the callbacks lack.
        grace = self.place.context.grace_seconds
        budget = SaveTime(None if grace is None else grace - self.notice.age_seconds, None, None)
        return TrainingEnd(ended.step, preempted=True, last_save=LastSave("step", ended.step, ended.step, budget))

    def _leave(self, state: TrainState, step: int) -> TrainingEnd:
        """Commit the newest step, or at least the save in flight, if the remaining grace period allows it.

        After the last step there is work left too: its evaluation or its tasks, for the next processes.
        """
        self.caches.stop()
        rejected = False
        try:
            self._report_pending()
        except RollBack:
            # There may be no time to go back. The next processes do these steps again, and go back for the same reason.
            rejected = True
        for callback in self.callbacks:
            callback.leave()
        budget = self._budget(step)
        saved = choose(budget)
        if rejected and saved == "step":
            saved = "none" if budget.in_flight_seconds is None else "inFlight"
        problem = ""
        self._reporter.stage("leaving")
        if saved == "step" and step != self._saved_step:
            if budget.in_flight_seconds is not None:
                problem = self.checkpointer.finish_within(longest_wait(budget))
                budget = self._budget(step)
                saved = "step" if budget.in_flight_seconds is None and choose(budget) == "step" else "inFlight"
            if saved == "step":
                self._save(state, step, waits=True)
                self._reporter.stage("leaving")
        if self.place.context.grace_seconds is None:
            self.checkpointer.finish()
        elif saved != "none":
            problem = self.checkpointer.finish_within(longest_wait(self._budget(step)))
        newest = self.checkpointer.kept
        committed = 0 if newest is None else newest.step
        if committed < (step if saved == "step" else self._saved_step):
            saved = "none"
        last_save = LastSave(saved, step, committed, budget, problem if saved == "none" else "")
        return TrainingEnd(step, preempted=True, last_save=last_save, model=self._given_model(state))

    def _budget(self, step: int) -> SaveTime:
        """The time for the last save.

        All processes agree on the greatest of their values for each number, which is the safest.
        """
        expected, under_way = self.checkpointer.expected_seconds, self.checkpointer.under_way
        age, save, in_flight = self.place.processes.greatest(
            self.notice.age_seconds,
            -1.0 if expected is None else expected,
            -1.0 if under_way is None else max(0.0, (expected or 0.0) - under_way.seconds),
        )
        grace = self.place.context.grace_seconds
        return SaveTime(
            left_seconds=None if grace is None else grace - age,
            save_seconds=None if save < 0 else save,
            in_flight_seconds=None if in_flight < 0 else in_flight,
            step_begun=step == self._saved_step,
        )

    def _wait(self, stage: Stage, mine: Callable[[float], bool]) -> bool:
        """Wait until ``mine(seconds)`` is true on all processes. False: a notice came."""
        began = time.perf_counter()
        here = mine(0.0)
        self._reporter.stage(stage)  # another process may wait even if this one does not
        came = wait_together(self.place.processes, self.notice, lambda seconds: here or mine(seconds))
        self._reporter.stage("training")
        self._waited_seconds += time.perf_counter() - began
        return came

    def close(self) -> None:
        """End the threads of the loop. Those of the callbacks end later, after this process has left the others."""
        self.caches.stop()  # otherwise the source's threads could wait for text forever
        self.batches.close()

    def _report_pending(self) -> None:
        """Fetch the numbers of the pending step and report them.

        Raises:
            Diverged: The run diverged, by these numbers, and its policy is to stop.
        """
        if self._pending is None:
            return
        step, metrics, waited, of_batch = self._pending
        self._pending = None
        numbers: StepMetrics = jax.device_get(metrics)
        control, loss, gradient_norm = int(numbers.control), float(numbers.loss), float(numbers.gradient_norm)
        if control & TEXT_WANTED:
            self._text_wait_steps.add(step + 1)
        self.numbers.add(step, loss, gradient_norm)
        # A save that has begun since this step covers the request. A deferred save is due when no bit is set.
        self._snapshot_asked |= bool(control & SNAPSHOT_WANTED) and step > self._snapshot_step
        self._save_asked |= bool(control & SAVE_WANTED) != self._deferred and step > self._saved_step
        self._reporter.step_done(
            StepReport(
                step=step,
                loss=loss,
                gradient_norm=gradient_norm,
                learning_rate=float(numbers.learning_rate),
                tokens=float(numbers.tokens),
                data_wait_seconds=waited,
                metrics=dict(of_batch)
                | reported_metrics(numbers.metrics)
                | reported(self._program.in_step, numbers.seen, step),
            )
        )
        if numbers.watched:
            self._reporter.watched(step, {name: np.asarray(value) for name, value in numbers.watched.items()})
        if why := self._divergence.skipped(step, int(numbers.verdict), loss, gradient_norm, self._newest_checkpoint):
            self._reporter.event("skipped", step=step, reason=why)

    def _newest_checkpoint(self) -> str:
        """Wait for the save in flight, whose steps are good, and describe the newest checkpoint."""
        self._reporter.stage("leaving")
        self.checkpointer.finish_within(_LAST_SAVE_SECONDS)
        newest = self.checkpointer.agreed()
        return (
            "there is no checkpoint yet"
            if newest is None
            else f"the last good checkpoint is that of step {newest.step} ({newest.path})"
        )

    def _save(self, state: TrainState, step: int, *, waits: bool = False) -> None:
        """Begin to save a step, unless that has begun already.

        If the save in flight is late, this one is deferred, unless it `waits`. A notice ends that wait.
        """
        # Compare with the last save that has *begun*: this step is equal on all processes, but each learns of a commit
        # at another time.
        if step == self._saved_step:
            return
        self._report_pending()  # checks the step for divergence before its state is saved
        # A run goes back to the checkpoint that an undisturbed run has.
        waits = waits or self._saved_exactly(step) or (self._goes_back and self._saved_by_step(step))
        if self._deferred and not (waits or self._save_asked):
            return
        self._reporter.stage("saving")
        self._save_asked, self._deferred = False, not self._save_ended(waits=waits)
        if self._deferred:
            self._reporter.stage("training")
            return
        self._saved_step = step
        self.requests.save_begun()
        schedule, number = self.dataset.schedule, self._batch_number(step)
        position = DataPosition(
            step=step,
            sequences=schedule.positions_before(number),
            tokens=schedule.tokens_before(number),
            skipped=until(self.checkpointer.skipped, step),
        )
        for callback in self.callbacks:
            callback.saving(step, state)
        self._reporter.stage("saving")
        self.checkpointer.save(step, state, position, self._best.record, self.numbers)
        self._reporter.stage("training")

    def _keep_in_memory(self, state: TrainState, step: int) -> None:
        """Take a snapshot for a start in place, if it is due."""
        if self.memory is None or not (self._snapshot_asked or self.memory.is_due(step)):
            return
        began = time.monotonic()
        self._report_pending()  # checks the step for divergence
        for callback in self.callbacks:
            callback.saving(step, state)
        self._reporter.stage("saving")
        self._snapshot_asked, self._snapshot_step = False, step
        self.memory.keep(
            step,
            state,
            returns=len(self.checkpointer.skipped),
            evaluation=self._best.record,
            numbers=self.numbers,
            since=began,
            mean_seconds=self.checkpointer.mean_seconds,
        )
        self._reporter.stage("training")

    def _save_ended(self, *, waits: bool) -> bool:
        """Wait until the save in flight has ended on all processes. A collective.

        False: it is late and the next save does not wait (`waits`), or a notice came.
        """
        while True:
            ended = self.checkpointer.wait(ROUND_SECONDS)
            late = self._reporter.late_save(self.checkpointer.under_way, waits=waits)
            missing, late, noticed = self.place.processes.greatest(not ended, late, self.notice.arrived)
            if not missing:
                return True
            if noticed or (late and not waits):
                return False

    def _evaluation_missing(self, step: int) -> bool:
        """Whether the evaluation of a step from which this process resumes must be made again.

        Only the state of `best` knows whether it was made. Without it, only that of the last step is made again: every
        run that is done has one.
        """
        if not self._evaluation.is_due(step):
            return False
        return self._best.is_missing(step) if self._best.active else step == self.last_step

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate the model on the held-out part. False: a notice came before the end."""
        self._report_pending()
        has_text = functools.partial(self.caches.progress.wait_for, self._evaluation.has_text)
        if self.dataset.streams and not self._wait("tokenizing", has_text):
            return False
        self._reporter.stage("evaluating")
        try:
            sets, average = self._evaluation.of(state, self._stop_after_notice)
        except _Stopped:
            return False
        self._improved = self._best.evaluated(step, sets)
        for name, report, fields in sets.events(average):
            self._reporter.event(name, report, step=step, **fields)
        self._report_best()
        self._reporter.stage("training")
        return True

    def _report_best(self) -> None:
        if self._best.active:
            self._reporter.knows(best=self._best.record, stopped_early=self._best.stop is not None or None)

    def _stop_after_notice(self) -> None:
        """A point between two batches of an evaluation, at which all processes stop after a notice: an evaluation may
        take longer than the grace period."""
        if self.sync_point.should_stop():
            raise _Stopped

    def _call_back(self, state: TrainState, step: int) -> bool:
        """Call the callbacks that are due after a step. False: a notice came."""
        for callback in self.callbacks:
            if not callback.due(step, is_last=step == self.last_step or self._best.stop is not None):
                continue
            if callback.saves:
                self._save(state, step, waits=True)
            self._report_pending()
            if self.sync_point.should_stop() or not callback.after(step, state):
                return False
        return True

    def _control(self, step: int) -> jax.Array:
        """The control value of this process for a step, counted from 0.

        All processes read it after they have dispatched the next step.
        """
        if self._deferred:
            under_way = self.checkpointer.under_way
            self._reporter.late_save(under_way, waits=False)
            save = under_way is not None
        else:
            save = self.requests.wanted or self.checkpointer.due(self.clock())
        text = (
            self.dataset.streams and step + 2 < self.last_step and not self.dataset.holds(self._batch_number(step + 2))
        )
        snapshot = self.memory is not None and self.memory.is_time(time.monotonic())
        return self._controls[save * SAVE_WANTED + text * TEXT_WANTED + snapshot * SNAPSHOT_WANTED]
