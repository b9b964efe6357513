"""One training, from the first join to the last save. It reads top to bottom.

The loop never waits for the device on its own account: it hands out step n + 1, and only then asks for the numbers of step n, so what it
logs is one step old and the device always has work. Whatever must happen at the same step on all processes (a save, a leave, a wait for
text) is decided by something that all of them compute alike: the step number, JAX's preemption sync point, or the control value that
travels through the step itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from halcyon.checkpoint import Checkpointer, Restored, SaveReport
from halcyon.checkpoint.failures import StoreFailure
from halcyon.checkpoint.store import Store
from halcyon.compilation import CompilationCache, compiler_options, program_key, survives_storage
from halcyon.context import Context, adapt_to_devices, check_context, process_name, run_name
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.dataset import Dataset
from halcyon.data.loader import Loader
from halcyon.data.open import background_caches, cache_store, dataset_of, may_begin
from halcyon.data.schedule import build_schedule
from halcyon.errors import TrainerExit
from halcyon.evaluate import evaluate, make_evaluation_step
from halcyon.fingerprints import fingerprints
from halcyon.models.flops import flops_per_token
from halcyon.parallel.mesh import build_mesh
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.waiting import Waiting
from halcyon.parallel.world import World, enable_compilation_cache, join, leave
from halcyon.program import Program, build_program, padded_vocabulary
from halcyon.state import TrainState, initial_state
from halcyon.step import StepMetrics
from halcyon.step_programs import StepPrograms
from halcyon.telemetry import RunReporter, StepReport
from halcyon.tokenizer import load as load_tokenizer
from halcyon_api.checkpoint_documents import DataPosition

SAVE_WANTED = 1
"""Bit of the control value of a process that wants a checkpoint."""
TEXT_WANTED = 2
"""Bit of a process that does not have the text of the step after the next one yet."""


@dataclass(frozen=True)
class Ended:
    """How a training ended without an error."""

    step: int
    """Steps done, and committed."""
    preempted: bool
    """Whether it left before the last step because of a notice."""


def train(
    context: Context,
    reporter: RunReporter,
    *,
    compilation_cache: Path,
    on_lost_process: Callable[[int], object],
    on_failed_build: Callable[[Exception], object],
    clock: Callable[[], float] = time.time,
) -> Ended:
    """Train until the last step or a notice of preemption; either way the last step done is committed when this returns.

    Args:
        context: The run and this process's place in it.
        reporter: Is told everything that happens.
        compilation_cache: Local directory of compiled programs.
        on_lost_process: Is told, in another thread, the index of a process that is gone; it must end this one.
        on_failed_build: Is told, in another thread, why the token caches cannot be built; it must end this process, whose main thread may
            be in a step that some other process does not take part in any more.
        clock: Seconds since the epoch.

    Raises:
        TrainerExit: The run cannot go on; the class says why and with which exit code.
    """
    check_context(context)
    spec = context.run.spec
    caches = background_caches(spec, process=process_name(context), run=run_name(context), report=reporter.tokenized)
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="halcyon-start") as background, contextlib.closing(caches):
        reporter.stage("joining")
        world = _join(context, on_lost_process)
        reporter.joined(processes=world.process_count, devices=jax.device_count())
        try:
            caches.growth.on_failure(lambda error: _end(error, world, on_failed_build))
            context = adapt_to_devices(context, jax.device_count(), jax.default_backend())
            mesh = build_mesh(context.mesh)

            reporter.stage("tokenizing")
            notice = PreemptionNotice(world)
            waiting = Waiting(world, notice)
            if not waiting.until(lambda seconds: caches.growth.wait_for(lambda: _may_begin(context, caches), seconds)):
                leave(world)
                return Ended(context.resume_step, preempted=True)
            reporter.stage("restoring")
            opening = background.submit(dataset_of, spec, cache_store(spec), caches.growth.known, caches.growth)
            vocabulary = load_tokenizer(caches.growth.known.tokenizer).vocab_size
            reporter.knows_flops(flops_per_token(spec.model, spec.trainer.sequence_length, vocabulary))
            program = build_program(spec, vocabulary, mesh)
            programs = _shared_programs(context, compilation_cache)
            steps = StepPrograms(program, background, lambda: _fetch(programs, reporter))
            steps.start_for(build_schedule(spec.trainer), context.resume_step)
            dataset = opening.result()
            checkpointer = Checkpointer.open(
                spec.checkpoint,
                owner=context.owner,
                epoch=context.epoch,
                fingerprints=fingerprints(spec, data=dataset.description),
                world=world,
                seed=spec.trainer.seed,
                mesh=context.mesh.model_dump(),
                expected_step=context.resume_step,
            )
            checkpointer.on_commit = lambda save: _tell_committed(reporter, checkpointer, save)
            checkpointer.on_failure = reporter.checkpoint_failed
            restored = checkpointer.restore(program.template)
            state = restored.state if restored else initial_state(program.build_state, program.template)
            step = restored.step if restored else 0
            _tell_restored(reporter, restored)
            reporter.saves_every(checkpointer.interval_seconds)

            reporter.stage("compiling")
            loop = _Loop(context, program, steps, dataset, caches, checkpointer, waiting, reporter, clock)
            try:
                ended = loop.run(state, step, after_first_step=lambda: background.submit(_publish, world, programs, reporter))
                checkpointer.finish()
            finally:
                loop.close()
                notice.close()
                checkpointer.close()
        except TrainerExit:
            leave(world)  # all processes came to the same end; whoever goes first must not look like a crash to the others
            raise
    leave(world)
    return ended


class _Loop:
    """The steps of one process, with what has to be done between them."""

    def __init__(
        self,
        context: Context,
        program: Program,
        steps: StepPrograms,
        dataset: Dataset,
        caches: BackgroundCaches,
        checkpointer: Checkpointer,
        waiting: Waiting,
        reporter: RunReporter,
        clock: Callable[[], float],
    ) -> None:
        self._settings = context.run.spec.trainer
        self._timed_saves = context.run.spec.checkpoint.save.every_seconds > 0 or context.run.spec.checkpoint.save.auto
        self._save_before_evaluation = context.run.spec.checkpoint.save.before_evaluation
        self._program = program
        self._steps = steps
        self._dataset = dataset
        self._caches = caches
        self._checkpointer = checkpointer
        self._waiting = waiting
        self._reporter = reporter
        self._clock = clock
        self._controls = [self._control_array(value) for value in range(2 * TEXT_WANTED)]
        self._evaluation_sums = jax.jit(make_evaluation_step(program.loss_sums, self._token_bytes()), compiler_options=compiler_options())
        self._loader = Loader(
            dataset,
            microbatches=self._settings.microbatches,
            sharding=program.batch_sharding,
            segments=program.segments,
            last_step=self._settings.steps,
        )
        self._pending: tuple[int, StepMetrics, float] | None = None
        """Steps done, the numbers of the last of them, and how long it waited for its batch."""
        self._saved_step = 0
        self._wanting: set[int] = set()
        """Steps (counted from 0) for whose text some process may have to wait, so that all meet before them."""
        self._waited_seconds = 0.0

    def run(self, state: TrainState, step: int, *, after_first_step: Callable[[], object]) -> Ended:
        """Step until the end or a notice. ``step`` counts the steps done."""
        first = self._saved_step = step
        if self._dataset.streams:
            self._wanting = {first, first + 1}
        while step < self._settings.steps:
            save_wanted = False
            if step in self._wanting:
                save_wanted = self._report_pending()
                if not self._wait_for_text(lambda step=step: self._dataset.holds(step)):
                    return self._leave(state, step)
            batch = self._loader.batch(step)
            state, metrics = self._steps.of(batch)(state, batch, self._control(step))
            step += 1
            save_wanted |= self._report_pending()
            self._pending = (step, metrics, self._loader.last_wait_seconds + self._waited_seconds)
            self._waited_seconds = 0.0
            if step == first + 1:
                self._report_pending()
                after_first_step()
            self._steps.prepare(self._dataset.schedule, step)
            if self._waiting.noticed():
                return self._leave(state, step)
            evaluation_due = self._evaluation_due(step)
            if save_wanted or self._checkpointer.should_save(step) or (evaluation_due and self._save_before_evaluation):
                self._save(state, step)
            if evaluation_due and not self._evaluate(state, step):
                return self._leave(state, step)
        self._report_pending()
        self._save(state, step)
        return Ended(step, preempted=False)

    def _leave(self, state: TrainState, step: int) -> Ended:
        self._caches.stop()
        self._report_pending()
        self._reporter.stage("leaving")
        self._save(state, step)
        return Ended(step, preempted=step < self._settings.steps)

    def _wait_for_text(self, held: Callable[[], bool]) -> bool:
        """Wait, with all processes, until the token caches have grown so far. False: a notice came."""
        began = time.perf_counter()
        here = held()
        if not here:
            self._reporter.stage("tokenizing")
        came = self._waiting.until(lambda seconds: here or self._caches.growth.wait_for(held, seconds))
        if not here:
            self._reporter.stage("training")
        self._waited_seconds += time.perf_counter() - began
        return came

    def close(self) -> None:
        """End the threads."""
        self._caches.stop()  # or the loader's threads might wait for text for ever
        self._loader.close()

    def _report_pending(self) -> bool:
        """Fetch the numbers of the last step handed out before the newest, and tell them. True if some process wants a checkpoint."""
        if self._pending is None:
            return False
        step, metrics, waited = self._pending
        self._pending = None
        numbers: StepMetrics = jax.device_get(metrics)
        control = int(numbers.control)
        if control & TEXT_WANTED:
            self._wanting.add(step + 1)
        self._reporter.step_done(
            StepReport(
                step=step,
                loss=float(numbers.loss),
                gradient_norm=float(numbers.gradient_norm),
                learning_rate=float(numbers.learning_rate),
                tokens=float(numbers.tokens),
                data_wait_seconds=waited,
            )
        )
        return bool(control & SAVE_WANTED)

    def _save(self, state: TrainState, step: int) -> None:
        # By the step that was last *begun*: every process knows it alike, while each learns of a commit at a time of its own.
        if step == self._saved_step:
            return
        self._saved_step = step
        schedule = self._dataset.schedule
        position = DataPosition(step=step, sequences=schedule.positions_before(step), tokens=schedule.tokens_before(step))
        self._reporter.stage("saving")
        self._checkpointer.save(step, state, position)
        self._reporter.stage("training")

    def _evaluation_due(self, step: int) -> bool:
        every = self._settings.evaluation.every_steps
        return every > 0 and (step % every == 0 or step == self._settings.steps)

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """False: a notice came before there was text to evaluate on."""
        self._report_pending()
        sequences = self._settings.evaluation.batches * self._settings.batch_size
        if self._dataset.streams and not self._wait_for_text(lambda: self._dataset.holds_validation(sequences)):
            return False
        self._reporter.stage("evaluating")
        with self._program.tracing():
            evaluation = evaluate(
                self._dataset,
                lambda batch: self._evaluation_sums(state.model, batch),
                batches=self._settings.evaluation.batches,
                batch_size=self._settings.batch_size,
                microbatches=self._settings.microbatches,
                sharding=self._program.batch_sharding,
                segments=self._program.segments,
            )
        self._reporter.evaluation(step, evaluation)
        self._reporter.stage("training")
        return True

    def _control(self, step: int) -> jax.Array:
        """What this process asks of all with the step of this number, counted from 0; they know after having handed out the next one."""
        save = self._timed_saves and self._checkpointer.due(self._clock())
        text = self._dataset.streams and step + 2 < self._settings.steps and not self._dataset.holds(step + 2)
        return self._controls[save * SAVE_WANTED + text * TEXT_WANTED]

    def _control_array(self, value: int) -> jax.Array:
        sharding = self._program.control_sharding
        mine = np.full(len(sharding.addressable_devices), value, np.int32)
        return jax.make_array_from_process_local_data(sharding, mine, (self._program.mesh.size,))

    def _token_bytes(self) -> np.ndarray:
        """Bytes of each token of the model's vocabulary; its padding stands for none."""
        sizes = self._dataset.tokenizer.token_bytes
        return np.pad(sizes, (0, padded_vocabulary(len(sizes)).size - len(sizes)))


def _end(error: Exception, world: World, on_failed_build: Callable[[Exception], object]) -> None:
    if isinstance(error, TrainerExit):
        leave(world)  # the others are told by the builder, and come to the same end
    on_failed_build(error)


def _may_begin(context: Context, caches: BackgroundCaches) -> bool:
    return caches.growth.caches is not None and may_begin(context.run.spec, caches.growth.caches)


def _join(context: Context, on_lost_process: Callable[[int], object]) -> World:
    is_cpu = context.run.spec.accelerator.type == "cpu"
    devices = context.topology.devices // context.process_count if is_cpu else None
    return join(context.coordinator, context.process_index, context.process_count, devices, on_loss=on_lost_process)


def _tell_committed(reporter: RunReporter, checkpointer: Checkpointer, save: SaveReport) -> None:
    reporter.checkpoint(save.checkpoint, blocked_seconds=save.blocked_seconds)
    reporter.saves_every(checkpointer.interval_seconds)


def _tell_restored(reporter: RunReporter, restored: Restored | None) -> None:
    if restored is None:
        reporter.resumed(0)
        return
    reporter.found_checkpoint(restored.checkpoint)
    reasons = "; ".join(f"step {bad.step}: {bad.reason}" for bad in restored.skipped)
    reporter.resumed(restored.step, path=restored.checkpoint.path, fallback_reason=reasons or None)


def _shared_programs(context: Context, directory: Path) -> CompilationCache | None:
    """The compiled programs of this run, kept in the checkpoint root; None where they could not be trusted after that."""
    if not survives_storage():
        return None
    enable_compilation_cache(str(directory))
    document = context.run.spec.document()
    depends = {name: document[name] for name in ("model", "tokenizer", "optimizer", "trainer")}
    return CompilationCache(directory, Store(context.run.spec.checkpoint), program_key({**depends, "mesh": context.mesh.document()}))


def _fetch(programs: CompilationCache | None, reporter: RunReporter) -> None:
    try:
        if programs is not None:
            programs.fetch()
    except (OSError, StoreFailure) as error:
        reporter.warning(f"compiled programs could not be fetched from the checkpoint root, so this process compiles: {error}")


def _publish(world: World, programs: CompilationCache | None, reporter: RunReporter) -> None:
    try:
        if programs is not None and world.is_main:
            programs.publish()
    except (OSError, StoreFailure) as error:
        reporter.warning(f"compiled programs could not be copied to the checkpoint root, so a restart compiles again: {error}")
