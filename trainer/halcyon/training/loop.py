"""The training loop: the steps up to the last one or a preemption notice, and the saves, evaluations and waits between them.

The loop dispatches step n + 1 before it fetches the numbers of step n. So the device always has work, and the log is one step late.
A save and a wait for text must happen at the same step on all processes. Each process decides this from values that are equal on all
processes: the step number, the numbers of the step, or the control value that the step combines over all processes. The step at which to
leave after a notice is agreed outside the steps (`halcyon.parallel.sync_point`), because the grace period is short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from halcyon.checkpoint import Checkpointer
from halcyon.context import Context
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.dataset import Dataset
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup
from halcyon.parallel.sync_point import SyncPoint
from halcyon.parallel.waiting import wait_together
from halcyon.telemetry import RunReporter, SaveRequests, StepReport
from halcyon.training.batch_source import BatchSource
from halcyon.training.compilation import compiler_options
from halcyon.training.compiled_steps import CompiledSteps
from halcyon.training.divergence import DivergenceWatch
from halcyon.training.evaluation import evaluate, make_evaluation_step
from halcyon.training.last_save import LastSave, SaveBudget, choose, longest_wait
from halcyon.training.program import Program, padded_token_bytes
from halcyon.training.reported import reported_metrics
from halcyon.training.state import TrainState
from halcyon.training.step import CONTROL_BITS, StepMetrics
from halcyon_api.checkpoint_documents import DataPosition
from halcyon_api.spec.trainer import EVALUATION_BATCHES

SAVE_WANTED = 1
"""Bit of the control value of a process that wants a checkpoint."""
TEXT_WANTED = 2
"""Bit of the control value of a process that does not have the text of the step after the next one yet."""


_LAST_SAVE_SECONDS = 600.0
"""Longest wait for the save in flight when a run stops as diverged."""


@dataclass(frozen=True)
class TrainingEnd:
    """How a training ended without an error."""

    step: int
    """Steps done."""
    preempted: bool
    """Whether a notice ended the training before the last step. If not, all steps are committed."""
    last_save: LastSave | None = None
    """The last save after a notice; None without a notice, and if there was nothing to save."""


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


class Loop:
    """The training loop of one process.

    Args:
        training: Everything that the loop needs.
        after_first_step: Called once, after the first step of this process has ended.
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
        self._watch = DivergenceWatch(context.run.spec.recovery.divergence)
        self._reporter = training.reporter
        self._clock = training.clock
        self._after_first_step = after_first_step
        self._controls = [self._control_array(value) for value in range(1 << CONTROL_BITS)]
        token_bytes = padded_token_bytes(dataset.tokenizer.token_bytes)
        self._evaluation_sums = jax.jit(make_evaluation_step(program.objective, token_bytes), compiler_options=compiler_options())
        self._batches = training.batches
        self._pending: tuple[int, StepMetrics, float] | None = None
        """The last dispatched step: steps done, its numbers on the device, and the seconds that it waited for its batch."""
        self._save_asked = False
        """Whether any process has asked for a save since the last save began, in a step whose numbers are fetched."""
        self._saved_step = 0
        self._export_due, self._stop_exports = training.export_due, training.stop_exports
        self._text_wait_steps: set[int] = set()
        """Steps (counted from 0) for whose text some process may have to wait: all processes wait together before them."""
        self._waited_seconds = 0.0

    def run(self, state: TrainState, step: int, *, save_first: bool = False) -> TrainingEnd:
        """Train until the last step or a notice.

        Args:
            state: The state after ``step`` steps.
            step: Steps done.
            save_first: Save this state before the first step.

        Raises:
            Diverged: The run diverged, and its policy is to stop.
        """
        first = self._saved_step = step
        if save_first:
            self._saved_step = -1
            self._save(state, step)
        if self._dataset.streams:
            self._text_wait_steps = {first, first + 1}
        while step < self._settings.steps:
            if self._sync_point.should_stop():
                return self._leave(state, step)
            if step in self._text_wait_steps:
                self._report_pending()
                if not self._wait_for_text(lambda step=step: self._dataset.holds(step)):
                    return self._leave(state, step)
            batch = self._batches.batch(step, state)
            self._reporter.waited_for_batch(self._batches.last_wait_seconds)
            state, metrics = self._steps.of(batch)(state, batch, self._control(step))
            step += 1
            self._report_pending()
            self._pending = (step, metrics, self._batches.last_wait_seconds + self._waited_seconds)
            self._waited_seconds = 0.0
            if step == first + 1:
                self._report_pending()
                self._after_first_step()
            self._steps.prepare(self._dataset.schedule, step)
            evaluation_due = self._evaluation_due(step)
            if self._save_due(step) or (evaluation_due and self._save_before_evaluation):
                self._save(state, step)
            if evaluation_due and (self._sync_point.should_stop() or not self._evaluate(state, step)):
                return self._leave(state, step)
        return self._finish(state, step)

    def _finish(self, state: TrainState, step: int) -> TrainingEnd:
        self._report_pending()
        self._save(state, step)
        self._reporter.stage("leaving")
        self._checkpointer.finish()
        return TrainingEnd(step, preempted=False)

    def _leave(self, state: TrainState, step: int) -> TrainingEnd:
        """Commit the last step, or at least the save in flight, if the remaining grace period allows it."""
        self._caches.stop()
        self._report_pending()
        if step >= self._settings.steps:
            return self._finish(state, step)
        self._stop_exports()
        budget = self._budget(step)
        saved = choose(budget)
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
        self._batches.close()

    def _report_pending(self) -> None:
        """Fetch the numbers of the pending step and report them.

        Raises:
            Diverged: The run diverged, by these numbers, and its policy is to stop.
        """
        if self._pending is None:
            return
        step, metrics, waited = self._pending
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
                metrics=reported_metrics(numbers.metrics),
            )
        )
        if why := self._watch.skipped(step, int(numbers.verdict), loss, gradient_norm, self._newest_checkpoint):
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
        position = DataPosition(step=step, sequences=schedule.positions_before(step), tokens=schedule.tokens_before(step))
        self._reporter.stage("saving")
        self._checkpointer.save(step, state, position)
        self._reporter.stage("training")

    def _save_due(self, step: int) -> bool:
        return self._save_asked or self._checkpointer.should_save(step) or self._export_due(step)

    def _evaluation_due(self, step: int) -> bool:
        every = self._settings.evaluation.every_steps
        return every > 0 and (step % every == 0 or step == self._settings.steps)

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Evaluate the model on the held-out part. False: a notice came before there was text to evaluate on."""
        self._report_pending()
        batches = self._settings.evaluation.batches or EVALUATION_BATCHES
        sequences = batches * self._settings.batch_size
        if self._dataset.streams and not self._wait_for_text(lambda: self._dataset.holds_validation(sequences)):
            return False
        self._reporter.stage("evaluating")
        model = self._program.evaluated(state)
        with self._program.tracing():
            evaluation = evaluate(
                self._dataset,
                lambda batch: self._evaluation_sums(model, batch),
                batches=batches,
                batch_size=self._settings.batch_size,
                microbatches=self._program.microbatches,
                sharding=self._program.batch_sharding,
                fields=self._program.objective.fields,
            )
        self._reporter.evaluation(step, evaluation)
        self._reporter.stage("training")
        return True

    def _control(self, step: int) -> jax.Array:
        """The control value of this process for a step, counted from 0. All processes read it after they have dispatched the next step."""
        save = self._requests.wanted or self._checkpointer.due(self._clock())
        text = self._dataset.streams and step + 2 < self._settings.steps and not self._dataset.holds(step + 2)
        return self._controls[save * SAVE_WANTED + text * TEXT_WANTED]

    def _control_array(self, value: int) -> jax.Array:
        sharding = self._program.control_sharding
        mine = np.full(len(sharding.addressable_devices), value, np.int32)
        return jax.make_array_from_process_local_data(sharding, mine, (self._program.mesh.size,))
