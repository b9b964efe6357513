"""The training loop: the steps up to the last one or a preemption notice, and the saves, evaluations and waits between them.

The loop dispatches step n + 1 before it fetches the numbers of step n. So the device always has work, and the log is one step late.
A save and a wait for text must happen at the same step on all processes. Each process decides this from values that are equal on all
processes: the step number, the numbers of the step, or the control value that the step combines over all processes. The step at which to
leave after a notice is agreed outside the steps (`halcyon.parallel.sync_point`), because the grace period is short.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.rollback import KeepsNewestByStep, Return, batch_number, until
from halcyon.context import Context
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.dataset import Dataset
from halcyon.errors import Diverged
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup
from halcyon.parallel.sync_point import SyncPoint
from halcyon.parallel.waiting import wait_together
from halcyon.telemetry import RunReporter, SaveRequests, StepReport
from halcyon.training.batch_source import BatchSource, HasNumbers
from halcyon.training.best import BestWatch
from halcyon.training.compiled_steps import CompiledSteps
from halcyon.training.divergence import DivergenceWatch, RollBack
from halcyon.training.held_out import HeldOutEvaluation
from halcyon.training.in_step import reported
from halcyon.training.last_save import LastSave, SaveBudget, choose, longest_wait
from halcyon.training.profiling import Profiler
from halcyon.training.program import Program
from halcyon.training.reported import reported_metrics
from halcyon.training.state import TrainState
from halcyon.training.step import CONTROL_BITS, StepMetrics
from halcyon_api.checkpoint_documents import DataPosition, EvaluationRecord
from halcyon_api.spec.divergence import RollbackSpec

if TYPE_CHECKING:
    from halcyon.evals.shared import SharedRunner  # most runs have no tasks, and need not import what runs them

SAVE_WANTED = 1
"""Bit of the control value of a process that wants a checkpoint."""
TEXT_WANTED = 2
"""Bit of the control value of a process that does not have the text of the step after the next one yet."""


_LAST_SAVE_SECONDS = 600.0
"""Longest wait for the save in flight when a run stops as diverged."""


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
    stopped: str | None = None
    """Why the training stopped before the last step, as a success; None if it did not."""


@dataclass(frozen=True)
class Training:
    """Everything that the loop needs, built before the first step."""

    context: Context
    program: Program
    steps: CompiledSteps
    dataset: Dataset
    batches: BatchSource
    caches: BackgroundCaches
    checkpointer: Checkpointer
    processes: ProcessGroup
    notice: PreemptionNotice
    sync_point: SyncPoint
    requests: SaveRequests
    """Requests for a checkpoint from outside the loop."""
    reporter: RunReporter
    clock: Callable[[], float]
    """Seconds since 1970."""
    export_due: Callable[[int], bool] = lambda step: False
    """Whether the model is exported after a number of steps, and so saved."""
    stop_exports: Callable[[], object] = lambda: None
    """Ends the exports under way without a wait, so that the last save after a notice has the network and the memory for itself."""
    profiler: Profiler | None = None
    evaluated: EvaluationRecord | None = None
    """The evaluations before the checkpoint that the run resumed from."""
    tasks: SharedRunner | None = None
    """The tasks of ``spec.trainer.evaluation.tasks``."""


class Loop:
    """The training loop of one process.

    Args:
        training: Everything that the loop needs.
        after_first_step: Called after the first step of this process has ended, and again after the first watched step.
    """

    def __init__(self, training: Training, *, after_first_step: Callable[[], object] = lambda: None) -> None:
        context, program, dataset = training.context, training.program, training.dataset
        self._settings = context.run.spec.trainer
        self._save_before_evaluation = context.run.spec.checkpoint.save.before_evaluation
        self._program = program
        self._steps = training.steps
        self._dataset = dataset
        self._caches = training.caches
        self._checkpointer = training.checkpointer
        self._processes = training.processes
        self._notice = training.notice
        self._sync_point = training.sync_point
        self._requests = training.requests
        self._grace_seconds = context.grace_seconds
        self._policy = context.run.spec.recovery.divergence
        self._divergence = DivergenceWatch(self._policy)
        self._watch = context.run.spec.telemetry.watch
        self._has_watched = False
        self._profiler = training.profiler
        self._best = BestWatch(self._settings.evaluation.best, training.evaluated)
        self._tasks = training.tasks
        self._reporter = training.reporter
        self._clock = training.clock
        self._after_first_step = after_first_step
        self._controls = [self._control_array(value) for value in range(1 << CONTROL_BITS)]
        self._batches = training.batches
        self._evaluation = HeldOutEvaluation(self._settings, program, dataset, training.batches)
        self._pending: tuple[int, StepMetrics, float, Mapping[str, float]] | None = None
        """The last dispatched step: steps done, its numbers on the device, the seconds that it waited for its batch, and the numbers of
        that batch."""
        self._save_asked = False
        """Whether any process has asked for a save since the last save began, in a step whose numbers are fetched."""
        self._saved_step = 0
        self._improved = False
        """Whether the last evaluation is the best so far."""
        self._export_due, self._stop_exports = training.export_due, training.stop_exports
        self._text_wait_steps: set[int] = set()
        """Steps (counted from 0) for whose text some process may have to wait: all processes wait together before them."""
        self._waited_seconds = 0.0
        if "rollback" in (self._policy.non_finite, self._policy.spike.action if self._policy.spike else ""):
            self._checkpointer.add_reader(KeepsNewestByStep(self._saved_by_step, self._checkpointer.committed))

    def run(self, state: TrainState, step: int, *, save_first: bool = False) -> TrainingEnd:
        """Train until the last step or a notice.

        Args:
            state: The state after ``step`` steps.
            step: Steps done.
            save_first: Save this state before the first step.

        Raises:
            Diverged: The run diverged, and its policy is to stop.
        """
        self._saved_step = -1 if save_first else step
        if save_first:
            self._save(state, step)
        while True:
            try:
                return self._train(state, step)
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
        if self._dataset.streams:
            self._text_wait_steps = {first, first + 1}
        if step and self._evaluation_missing(step) and not self._evaluate(state, step):
            return self._leave(state, step)
        if self._best.active:
            self._reporter.best(self._best.record, stopped=self._best.stop is not None)
        if step and self._tasks_due(step) and not self._run_tasks(state, step):
            return self._leave(state, step)
        while self._best.stop is None and step < self._settings.steps:
            if self._sync_point.should_stop():
                return self._leave(state, step)
            if step in self._text_wait_steps:
                self._report_pending()
                if not self._wait_for_text(lambda step=step: self._dataset.holds(self._batch_number(step))):
                    return self._leave(state, step)
            if self._profiler is not None and self._profiler.start_due(step + 1):
                self._report_pending()
                self._profiler.start()
            batch = self._batches.batch(self._batch_number(step), state)
            self._reporter.waited_for_batch(self._batches.last_wait_seconds)
            train_step = self._steps.of(batch, watched=self._watch is not None and self._watch.is_due(step + 1))
            with self._profiler.around(step + 1) if self._profiler is not None else contextlib.nullcontext():
                state, metrics = train_step(state, batch, self._control(step))
            step += 1
            self._report_pending()
            of_batch = self._batches.numbers if isinstance(self._batches, HasNumbers) else {}
            self._pending = (step, metrics, self._batches.last_wait_seconds + self._waited_seconds, of_batch)
            self._waited_seconds = 0.0
            if step == first + 1:
                self._report_pending()
                self._after_first_step()
            if self._profiler is not None and self._profiler.stop_due(step, ends=step == self._settings.steps):
                self._report_pending()
                self._profiler.stop(step, self._reporter.speed(), train_step)
            self._steps.prepare(self._dataset.schedule, self._batch_number(step))
            evaluation_due = self._evaluation.is_due(step)
            save_due = self._save_due(step)
            # The checkpoint of a step has the result of its evaluation, unless it must come before.
            if (save_due and not (evaluation_due and self._best.active)) or (evaluation_due and self._save_before_evaluation):
                self._save(state, step)
            if evaluation_due:
                if not self._evaluate(state, step):
                    return self._leave(state, step)
                if save_due or self._improved:
                    self._save(state, step)
            if self._tasks_due(step) and not self._run_tasks(state, step):
                return self._leave(state, step)
        return self._finish(state, step)

    def _batch_number(self, step: int) -> int:
        """The number of the batch of a step, both counted from 0: the step, unless the run has gone back and left out batches."""
        return batch_number(self._checkpointer.skipped, step)

    def _saved_by_step(self, step: int) -> bool:
        """Whether the number of a step alone decides that its state is saved."""
        before_evaluation = self._save_before_evaluation and self._evaluation.is_due(step)
        tasks = self._tasks is not None and self._tasks.is_due(step, self._settings.steps)
        return self._checkpointer.should_save(step) or self._export_due(step) or before_evaluation or tasks

    def _go_back(self, bad_step: int, reason: str) -> tuple[TrainState, int]:
        """Go back to the last good checkpoint, past the batches since then.

        Returns:
            The state of the checkpoint, and its step.

        Raises:
            Diverged: The run has gone back too often, or has no checkpoint.
        """
        self._pending, self._save_asked = None, False
        times, limit = len(self._checkpointer.skipped), (self._policy.rollback or RollbackSpec()).limit
        if times >= limit:
            raise Diverged(
                f"{reason}, and the run has gone back {times} times already (recovery.divergence.rollback.limit); "
                f"{self._newest_checkpoint()}; raise the limit, or make a new run with a lower learning rate"
            )
        self._reporter.stage("restoring")
        further = (self._policy.rollback or RollbackSpec()).further_batches
        record = self._checkpointer.go_back(Return(bad_step, reason, further, self._saved_by_step))
        restored = self._checkpointer.restore(self._program.template) if record is not None else None
        if record is None or restored is None:
            raise Diverged(
                f"{reason}, and there is no checkpoint yet to go back to; save earlier (checkpoint.save), or make a new run with a lower "
                "learning rate"
            )
        self._saved_step = restored.step
        self._best = BestWatch(self._settings.evaluation.best, restored.checkpoint.evaluation)
        self._reporter.rolled_back(bad_step, restored.step, record.batches, reason)
        self._reporter.stage("training")
        return restored.state, restored.step

    def _finish(self, state: TrainState, step: int) -> TrainingEnd:
        self._report_pending()
        self._save(state, step)
        self._reporter.stage("leaving")
        self._checkpointer.finish()
        return TrainingEnd(step, preempted=False, stopped=self._best.stop if step < self._settings.steps else None)

    def _leave(self, state: TrainState, step: int) -> TrainingEnd:
        """Commit the newest step, or at least the save in flight, if the remaining grace period allows it.

        After the last step there is work left too: its evaluation or its tasks, for the next processes.
        """
        self._caches.stop()
        rejected = False
        try:
            self._report_pending()
        except RollBack:
            # There may be no time to go back. The next processes do these steps again, and go back for the same reason.
            rejected = True
        self._stop_exports()
        budget = self._budget(step)
        saved = choose(budget)
        if rejected and saved == "step":
            saved = "none" if budget.in_flight_seconds is None else "inFlight"
        problem = ""
        if saved == "step":
            self._save(state, step)
        self._reporter.stage("leaving")
        if self._grace_seconds is None:
            self._checkpointer.finish()
        elif saved != "none":
            problem = self._checkpointer.finish_within(longest_wait(self._budget(step)))
        committed = self._checkpointer.newest.step if self._checkpointer.newest is not None else 0
        if committed < (step if saved == "step" else self._saved_step):
            saved = "none"
        return TrainingEnd(step, preempted=True, last_save=LastSave(saved, step, committed, budget, problem if saved == "none" else ""))

    def _budget(self, step: int) -> SaveBudget:
        """The time for the last save. All processes agree on the greatest of their values for each number, which is the safest."""
        expected, under_way = self._checkpointer.expected_seconds, self._checkpointer.under_way_seconds
        age, save, in_flight = self._processes.greatest(
            self._notice.age_seconds,
            -1.0 if expected is None else expected,
            -1.0 if under_way is None else max(0.0, (expected or 0.0) - under_way),
        )
        return SaveBudget(
            left_seconds=None if self._grace_seconds is None else self._grace_seconds - age,
            save_seconds=None if save < 0 else save,
            in_flight_seconds=None if in_flight < 0 else in_flight,
            step_begun=step == self._saved_step,
        )

    def _wait_for_text(self, held: Callable[[], bool]) -> bool:
        """Wait until ``held()`` is true on all processes. False: a notice came."""
        began = time.perf_counter()
        here = held()
        self._reporter.stage("tokenizing")  # another process may wait for text even if this one does not
        came = wait_together(self._processes, self._notice, lambda seconds: here or self._caches.progress.wait_for(held, seconds))
        self._reporter.stage("training")
        self._waited_seconds += time.perf_counter() - began
        return came

    def close(self) -> None:
        """End the threads of the loop."""
        self._caches.stop()  # otherwise the source's threads could wait for text forever
        if self._profiler is not None:
            self._profiler.close()
        self._batches.close()

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
        # A save that has begun since this step covers the request.
        self._save_asked |= bool(control & SAVE_WANTED) and step > self._saved_step
        self._reporter.step_done(
            StepReport(
                step=step,
                loss=loss,
                gradient_norm=gradient_norm,
                learning_rate=float(numbers.learning_rate),
                tokens=float(numbers.tokens),
                data_wait_seconds=waited,
                metrics=dict(of_batch) | reported_metrics(numbers.metrics) | reported(self._program.in_step, numbers.seen, step),
            )
        )
        if numbers.watched:
            self._reporter.watched(step, {name: np.asarray(value) for name, value in numbers.watched.items()})
            if not self._has_watched:  # the program of watched steps is compiled by now
                self._has_watched = True
                self._after_first_step()
        if why := self._divergence.skipped(step, int(numbers.verdict), loss, gradient_norm, self._newest_checkpoint):
            self._reporter.skipped(step, why)

    def _newest_checkpoint(self) -> str:
        """Wait for the save in flight, whose steps are good, and describe the newest checkpoint."""
        self._reporter.stage("leaving")
        self._checkpointer.finish_within(_LAST_SAVE_SECONDS)
        newest = self._checkpointer.newest
        return "there is no checkpoint yet" if newest is None else f"the last good checkpoint is that of step {newest.step} ({newest.path})"

    def _save(self, state: TrainState, step: int) -> None:
        # Compare with the last save that has *begun*: this step is equal on all processes, but each learns of a commit at another time.
        if step == self._saved_step:
            return
        self._report_pending()  # checks the step for divergence before its state is saved
        self._save_asked = False
        self._saved_step = step
        self._requests.save_begun()
        schedule = self._dataset.schedule
        number = self._batch_number(step)
        past = until(self._checkpointer.skipped, step)
        position = DataPosition(step=step, sequences=schedule.positions_before(number), tokens=schedule.tokens_before(number), skipped=past)
        self._reporter.stage("saving")
        self._checkpointer.save(step, state, position, self._best.record)
        self._reporter.stage("training")

    def _save_due(self, step: int) -> bool:
        return self._save_asked or self._checkpointer.should_save(step) or self._export_due(step)

    def _evaluation_missing(self, step: int) -> bool:
        """Whether the evaluation of a step from which this process resumes must be made again.

        Only the state of `best` knows whether it was made. Without it, only that of the last step is made again: every run that is done
        has one.
        """
        if not self._evaluation.is_due(step):
            return False
        return self._best.is_missing(step) if self._best.active else step == self._settings.steps

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate the model on the held-out part. False: a notice came before the end."""
        self._report_pending()
        if self._dataset.streams and not self._wait_for_text(self._evaluation.has_text):
            return False
        self._reporter.stage("evaluating")
        try:
            sets, average = self._evaluation.of(state, self._stop_after_notice)
        except _Stopped:
            return False
        self._improved = self._best.evaluated(step, sets)
        self._reporter.evaluated_sets(step, sets, average)
        if self._best.active:
            self._reporter.best(self._best.record, stopped=self._best.stop is not None)
        self._reporter.stage("training")
        return True

    def _stop_after_notice(self) -> None:
        """A point between two batches of an evaluation, at which all processes stop after a notice: an evaluation may take longer than
        the grace period."""
        if self._sync_point.should_stop():
            raise _Stopped

    def _tasks_due(self, step: int) -> bool:
        """Whether tasks are run after a step: by its number, and after the last step of a run that stops early."""
        if self._tasks is None:
            return False
        return self._tasks.is_due(step, self._settings.steps) or self._best.stop is not None

    def _run_tasks(self, state: TrainState, step: int) -> bool:
        """Run the tasks whose results the root lacks, once the step is being saved. False: a notice came."""
        if self._tasks is None:
            return True
        self._save(state, step)
        self._report_pending()
        if self._sync_point.should_stop():
            return False
        self._reporter.stage("evaluating")
        came = self._tasks.while_training(step, self._program.evaluated(state), until(self._checkpointer.skipped, step))
        self._reporter.stage("training")
        return came

    def _control(self, step: int) -> jax.Array:
        """The control value of this process for a step, counted from 0. All processes read it after they have dispatched the next step."""
        save = self._requests.wanted or self._checkpointer.due(self._clock())
        text = self._dataset.streams and step + 2 < self._settings.steps and not self._dataset.holds(self._batch_number(step + 2))
        return self._controls[save * SAVE_WANTED + text * TEXT_WANTED]

    def _control_array(self, value: int) -> jax.Array:
        sharding = self._program.control_sharding
        mine = np.full(len(sharding.addressable_devices), value, np.int32)
        return jax.make_array_from_process_local_data(sharding, mine, (self._program.mesh.size,))
