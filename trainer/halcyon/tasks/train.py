"""The task ``train``: one training, from the join to the last save. It reads top to bottom; `halcyon.training.loop` has the steps."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax

from halcyon.checkpoint import Callbacks, Checkpointer, Restored, SaveReport
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.context import Context, check_context, process_name, run_name, with_spec
from halcyon.data.batch_schedule import build_schedule
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.cache.tokenizers import keep_tokenizer
from halcyon.data.open import background_caches, cache_store, dataset_of, may_begin
from halcyon.errors import TrainerExit
from halcyon.huggingface.beginning import Begun, begin
from halcyon.huggingface.companions import keep_companions
from halcyon.machine.memory import check_step_memory, machine_memory
from halcyon.models.custom import check_model
from halcyon.models.flops import flops_per_token
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup, enable_compilation_cache, leave
from halcyon.parallel.sync_point import SyncPoint
from halcyon.parallel.waiting import wait_together
from halcyon.session import session
from halcyon.storage.failures import StoreFailure
from halcyon.storage.retry_budget import RetryBudget
from halcyon.storage.store import Store
from halcyon.telemetry import RunReporter, SaveRequests
from halcyon.tokenizer import TokenizerDefinition
from halcyon.tokenizer import load as load_tokenizer
from halcyon.training.batch_source import BuildBatchSource, dataset_batches
from halcyon.training.choices import RunChoice
from halcyon.training.compilation import CompilationCache, program_key
from halcyon.training.compiled_steps import CompiledSteps
from halcyon.training.exports import begin_exports, check_exportable, complete_exports
from halcyon.training.fitting import with_choice
from halcyon.training.last_save import LastSave, SaveBudget
from halcyon.training.loop import Loop, Training, TrainingEnd
from halcyon.training.plan_reports import PlanReports
from halcyon.training.program import STEP_MODULE, Program, build_program
from halcyon.training.state import completed_state, initial_state, state_bytes
from halcyon_api.checkpoint_documents import HEAD_KEY, CommittedStep, Fingerprints
from halcyon_api.spec.checkpoint import CheckpointSpec


def train(
    context: Context,
    reporter: RunReporter,
    *,
    compilation_cache: Path,
    retry_budget: RetryBudget,
    on_lost_process: Callable[[int], object],
    on_failed_build: Callable[[Exception], object],
    on_interrupt: Callable[[int], object] = lambda count: None,
    requests: SaveRequests | None = None,
    batch_source: BuildBatchSource = dataset_batches,
    clock: Callable[[], float] = time.time,
) -> TrainingEnd:
    """Train until the last step or a preemption notice.

    After the last step, all steps are committed when this returns. After a notice, `TrainingEnd.last_save` says which steps were committed
    within the grace period; on the user's own machine, which has no grace period, all steps are.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the progress.
        compilation_cache: Local directory of compiled programs.
        retry_budget: The waits for stores that deny access while the run starts.
        on_lost_process: Called in another thread with the index of a lost process; it must end this process.
        on_failed_build: Called in another thread with the error of a failed cache build; it must end this process. The main thread may be
            blocked in a step that another process does not run any more.
        on_interrupt: Called in another thread at each interrupt from the keyboard, with their number. The first is a notice.
        requests: Requests for a checkpoint while the run trains.
        batch_source: Makes the source of the batches. Default: the run's dataset.
        clock: Seconds since 1970.

    Raises:
        TrainerExit: The run cannot continue; the class gives the cause and the exit code.
    """
    check_context(context)
    check_model(context.run.spec.model)
    check_exportable(context)
    spec = context.run.spec
    requests = requests or SaveRequests()
    caches = background_caches(
        spec, process=process_name(context), run=run_name(context), report=reporter.tokenized, retry_budget=retry_budget
    )
    with (
        contextlib.ExitStack() as last,
        ThreadPoolExecutor(max_workers=3, thread_name_prefix="halcyon-start") as background,
        contextlib.closing(caches),
        contextlib.closing(retry_budget),
        session(context, reporter, on_lost_process=on_lost_process) as joined,
    ):
        processes = joined.processes
        sync_point = SyncPoint(processes, on_notice=retry_budget.stop)
        notice = last.enter_context(PreemptionNotice(on_arrival=sync_point.notice, on_interrupt=on_interrupt))
        caches.progress.on_failure(lambda error: _end(error, processes, on_failed_build))
        context, mesh = joined.lay_out()

        reporter.stage("tokenizing")
        if not wait_together(processes, notice, lambda seconds: caches.progress.wait_for(lambda: _may_begin(context, caches), seconds)):
            return TrainingEnd(context.resume_step, preempted=True)
        reporter.stage("restoring")
        opening = background.submit(dataset_of, spec, cache_store(spec, retry_budget), caches.progress.caches, caches.progress)
        starting: list[Future[Any]] = [opening, background.submit(_wait_for_root, spec.checkpoint, retry_budget)]
        vocabulary = load_tokenizer(caches.progress.caches.tokenizer).vocab_size
        reporter.knows_flops(flops_per_token(spec.model, spec.trainer.sequence_length, vocabulary))
        programs = _shared_programs(context, processes, compilation_cache)
        choice = RunChoice(context, processes, Store(spec.checkpoint, retry_budget=retry_budget))
        if (values := choice.find(vocabulary, mesh)) is not None:
            spec = with_choice(spec, values)
            context = with_spec(context, spec)
        program = build_program(spec, vocabulary, mesh)
        plans = PlanReports(program, spec, reporter)
        steps = CompiledSteps(
            program, background, lambda: _fetch(programs, reporter), functools.partial(_compiled, programs, program, reporter, plans)
        )
        steps.start_for(build_schedule(spec.trainer), context.resume_step)
        if not wait_together(processes, notice, lambda seconds: not wait(starting, seconds).not_done):
            return TrainingEnd(context.resume_step, preempted=True)
        dataset = opening.result()
        prints = fingerprints(spec, data=dataset.description)
        checkpointer = _open_checkpoints(context, processes, prints, vocabulary, reporter, requests, retry_budget)
        restored = checkpointer.restore(program.template)
        begun = _begin(context, processes, program, prints, vocabulary, retry_budget) if restored is None else None
        if restored is None and processes.is_main:
            _keep_files(spec.checkpoint, caches.progress.caches.tokenizer, begun, reporter, retry_budget)
        exporter = begin_exports(context, processes, checkpointer, reporter)
        if exporter is not None:
            last.callback(exporter.close)
        checkpointer.opened()
        choice.keep()
        found = restored or begun
        state = found.state if found else initial_state(program.build_state, program.template)
        if begun is not None and begun.state is None:
            state = completed_state(program.complete_state, program.template, begun.model)
        _report_restored(reporter, restored, begun)
        reporter.saves_every(checkpointer.interval_seconds)

        reporter.stage("compiling")
        batches = batch_source(dataset, program, spec.trainer)
        training = Training(
            context, program, steps, dataset, batches, caches, checkpointer, processes, notice, sync_point, requests, reporter, clock,
            export_due=exporter.is_due if exporter is not None else lambda step: False,
            stop_exports=exporter.abandon if exporter is not None else lambda: None,
        )  # fmt: skip
        publish = functools.partial(_publish, processes, programs, reporter, plans, 2 * state_bytes(program.template))
        loop = Loop(training, after_first_step=lambda: background.submit(publish))
        try:
            ended = loop.run(state, found.step if found else 0, save_first=begun is not None)
            if exporter is not None and not ended.preempted and not complete_exports(exporter, processes, notice):
                ended = _preempted_while_exporting(ended, context, notice)
        finally:
            loop.close()
            checkpointer.close()
            programs.close()
        # End the background work before `leave`: until then the other processes still wait for this one.
        background.shutdown()
        caches.close()
        return ended


def _preempted_while_exporting(ended: TrainingEnd, context: Context, notice: PreemptionNotice) -> TrainingEnd:
    """The end of a training whose steps are all saved, and whose exports the next process group completes."""
    left = None if context.grace_seconds is None else context.grace_seconds - notice.age_seconds
    return TrainingEnd(ended.step, preempted=True, last_save=LastSave("step", ended.step, ended.step, SaveBudget(left, None, None)))


def _open_checkpoints(
    context: Context,
    processes: ProcessGroup,
    prints: Fingerprints,
    vocabulary: int,
    reporter: RunReporter,
    requests: SaveRequests,
    retry_budget: RetryBudget,
) -> Checkpointer:
    spec = context.run.spec
    return Checkpointer.open(
        spec.checkpoint,
        owner=context.owner,
        epoch=context.epoch,
        fingerprints=prints,
        processes=processes,
        seed=spec.trainer.seed,
        mesh=context.mesh.model_dump(),
        expected_step=context.resume_step,
        vocabulary=vocabulary,
        positions=spec.trainer.longest_sequence,
        retry_budget=retry_budget,
        callbacks=Callbacks(
            on_commit=lambda save: _report_committed(reporter, save),
            on_failure=lambda reason: _report_failed(reporter, requests, reason),
            on_warning=reporter.warning,
            on_read_back=lambda entry, damage: _report_read_back(reporter, entry, damage),
        ),
    )


def _end(error: Exception, processes: ProcessGroup, on_failed_build: Callable[[Exception], object]) -> None:
    if isinstance(error, TrainerExit):
        leave(processes)  # the builder reports the error to the other processes, which end with it too
    on_failed_build(error)


def _may_begin(context: Context, caches: BackgroundCaches) -> bool:
    return caches.progress.latest is not None and may_begin(context.run.spec, caches.progress.latest)


def _report_committed(reporter: RunReporter, save: SaveReport) -> None:
    seconds = save.copy_seconds + save.commit_seconds
    reporter.checkpoint(save.checkpoint, blocked_seconds=save.blocked_seconds, save_seconds=seconds)
    reporter.saves_every(save.interval_seconds)


def _report_failed(reporter: RunReporter, requests: SaveRequests, reason: str) -> None:
    reporter.checkpoint_failed(reason)
    requests.failed()


def _report_read_back(reporter: RunReporter, entry: CommittedStep, damage: str | None) -> None:
    if damage is None:
        reporter.verified_checkpoint(entry.step)
    else:
        reporter.checkpoint_failed(f"the checkpoint at step {entry.step} was committed and is damaged, so another one is made: {damage}")


def _wait_for_root(checkpoint: CheckpointSpec, retry_budget: RetryBudget) -> None:
    """Wait until the checkpoint root accepts the credentials. `Checkpointer` handles other failures, on all processes together."""
    with contextlib.suppress(StoreFailure):
        Store(checkpoint, retry_budget=retry_budget).read(HEAD_KEY)


def _begin(
    context: Context, processes: ProcessGroup, program: Program, prints: Fingerprints, tokens: int, retry_budget: RetryBudget
) -> Begun | None:
    """What ``spec.from`` names, for a run that has no checkpoint of its own yet. None: the run has no ``spec.from``."""
    spec = context.run.spec
    if spec.origin is None:
        return None
    return begin(
        spec,
        spec.origin,
        owner=context.owner,
        fingerprints=prints,
        processes=processes,
        template=program.template,
        tokens=tokens,
        retry_budget=retry_budget,
    )


def _keep_files(
    checkpoint: CheckpointSpec, tokenizer: TokenizerDefinition, begun: Begun | None, reporter: RunReporter, retry_budget: RetryBudget
) -> None:
    """Write into the root what makes its checkpoints usable without the files that this run reads."""
    store = Store(checkpoint, retry_budget=retry_budget)
    try:
        keep_tokenizer(store, tokenizer)
        keep_companions(store, begun.files if begun is not None else {})
    except StoreFailure as failure:
        reporter.warning(f"the tokenizer could not be copied to the checkpoint root, so an export will lack it: {failure}")


def _report_restored(reporter: RunReporter, restored: Restored | None, begun: Begun | None) -> None:
    if restored is None:
        reporter.resumed(begun.step if begun else 0, path=begun.path if begun else None)
        return
    reporter.found_checkpoint(restored.checkpoint)
    reasons = "; ".join(f"step {bad.step}: {bad.reason}" for bad in restored.skipped)
    reporter.resumed(restored.step, path=restored.checkpoint.path, fallback_reason=reasons or None)


def _shared_programs(context: Context, processes: ProcessGroup, directory: Path) -> CompilationCache:
    """The cache of this run's compiled programs, with its copy in the checkpoint root."""
    document = context.run.spec.document()
    depends = {name: document[name] for name in ("model", "tokenizer", "optimizer", "objective", "trainer")}
    depends["divergence"] = document["recovery"]["divergence"]
    key = program_key({**depends, "mesh": context.mesh.document()})
    selective = processes.distributed and jax.default_backend() == "cpu"
    programs = CompilationCache(directory, Store(context.run.spec.checkpoint), key, selective=selective)
    enable_compilation_cache(str(programs.directory))
    return programs


def _fetch(programs: CompilationCache, reporter: RunReporter) -> None:
    try:
        programs.fetch()
    except (OSError, StoreFailure) as error:
        reporter.warning(f"compiled programs could not be fetched from the checkpoint root, so this process compiles: {error}")


def _compiled(
    programs: CompilationCache,
    program: Program,
    reporter: RunReporter,
    plans: PlanReports,
    step: jax.stages.Compiled,
    batch_size: int,
    sequence_length: int,
) -> None:
    reporter.attends(program.attention_choices)
    plans.compiled(step, batch_size, sequence_length)
    if jax.default_backend() == "cpu":  # the compiler of an accelerator itself rejects a program that does not fit
        check_step_memory(step, machine_memory(), devices=jax.local_device_count())
    programs.compiled(STEP_MODULE, step)


def _publish(processes: ProcessGroup, programs: CompilationCache, reporter: RunReporter, plans: PlanReports, reserved_bytes: int) -> None:
    try:
        if processes.is_main:
            programs.publish(reserved_bytes=reserved_bytes)
    except (OSError, StoreFailure) as error:
        reporter.warning(f"compiled programs could not be copied to the checkpoint root, so a restart compiles again: {error}")
    if processes.is_main:
        plans.start()
