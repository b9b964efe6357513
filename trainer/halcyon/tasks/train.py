"""The task ``train``: one training, from the join to the last save. It reads top to bottom; `halcyon.training.loop` has the steps."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.context import Context, check_context, process_name, run_name, with_spec
from halcyon.data.batch_schedule import build_schedule
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.open import background_caches, cache_store, dataset_of, may_begin
from halcyon.errors import TrainerExit
from halcyon.huggingface.run_templates import with_templates
from halcyon.models.adapters import check_adapter
from halcyon.models.custom import check_model
from halcyon.models.flops import flops_per_token
from halcyon.optim.groups import check_groups
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup, leave
from halcyon.parallel.sync_point import SyncPoint
from halcyon.parallel.waiting import wait_together
from halcyon.session import session
from halcyon.storage.retry_budget import RetryBudget
from halcyon.storage.store import Store
from halcyon.tasks.sources import report_sources
from halcyon.telemetry import ProfileRequests, RunReporter, SaveRequests
from halcyon.tokenizer import load as load_tokenizer
from halcyon.training.batch_source import BuildBatchSource, dataset_batches
from halcyon.training.choices import RunChoice
from halcyon.training.compiled_steps import CompiledSteps
from halcyon.training.exports import begin_exports, check_exportable, complete_exports
from halcyon.training.fitting import with_choice
from halcyon.training.history import begin_history, place_of
from halcyon.training.in_step import InStep
from halcyon.training.last_save import LastSave, SaveBudget
from halcyon.training.loop import Loop, Training, TrainingEnd
from halcyon.training.plan_reports import PlanReports
from halcyon.training.policy.rewards import reward_named
from halcyon.training.profiling import profiler_of
from halcyon.training.program import build_program
from halcyon.training.shared_programs import SharedPrograms
from halcyon.training.start import find_start, open_checkpoints, wait_for_root
from halcyon.training.state import state_bytes

if TYPE_CHECKING:
    from halcyon.checkpoint import Checkpointer
    from halcyon.training.tasks import TaskPlan
    from halcyon_api.training_run import TrainingRunSpec


def train(
    context: Context,
    reporter: RunReporter,
    *,
    compilation_cache: Path,
    retry_budget: RetryBudget,
    on_lost_process: Callable[[int], object],
    on_failed_build: Callable[[Exception], object],
    on_joined: Callable[[ProcessGroup], object] = lambda processes: None,
    on_interrupt: Callable[[int], object] = lambda count: None,
    requests: SaveRequests | None = None,
    profile_requests: ProfileRequests | None = None,
    batch_source: BuildBatchSource | None = None,
    in_step: Sequence[InStep] = (),
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
        on_joined: Called with the processes when all have joined.
        on_interrupt: Called in another thread at each interrupt from the keyboard, with their number. The first is a notice.
        requests: Requests for a checkpoint while the run trains.
        profile_requests: Requests for a profile while the run trains.
        batch_source: Makes the source of the batches. Default: the run's dataset, or answers to its prompts with ``objective.policy``.
        in_step: Functions of the library's user inside the compiled step.
        clock: Seconds since 1970.

    Raises:
        TrainerExit: The run cannot continue; the class gives the cause and the exit code.
    """
    check_context(context)
    context = with_spec(context, with_templates(context.run.spec))
    check_model(context.run.spec.model)
    check_adapter(context.run.spec.model, context.run.spec.lora)
    check_groups(context.run.spec.model, context.run.spec.optimizer, context.run.spec.lora)
    check_exportable(context)
    if context.run.spec.objective.policy is not None:
        reward_named(context.run.spec.objective.policy.reward)
    task_plan = _task_plan(context.run.spec)
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
        session(context, reporter, on_lost_process=on_lost_process, on_joined=on_joined) as joined,
    ):
        processes = joined.processes
        sync_point = SyncPoint(processes, on_notice=retry_budget.stop)
        notice = last.enter_context(PreemptionNotice(on_arrival=sync_point.notice, on_interrupt=on_interrupt))
        caches.progress.on_failure(lambda error: _end(error, processes, on_failed_build))
        context, mesh = joined.lay_out()

        reporter.stage("tokenizing")
        if not wait_together(processes, notice, lambda seconds: caches.progress.wait_for(lambda: _may_begin(context, caches), seconds)):
            return TrainingEnd(context.resume_step, preempted=True)
        if processes.is_main:
            report_sources(reporter, spec.data, caches.progress.caches)
        reporter.stage("restoring")
        opening = background.submit(dataset_of, spec, cache_store(spec, retry_budget), caches.progress.caches, caches.progress)
        starting: list[Future[Any]] = [opening, background.submit(wait_for_root, spec.checkpoint, retry_budget)]
        tokenizer = caches.progress.caches.tokenizer
        vocabulary = load_tokenizer(tokenizer).vocab_size
        reporter.knows(flops_per_token=flops_per_token(spec.model, spec.trainer.sequence_length, vocabulary, frozen=spec.lora is not None))
        programs = SharedPrograms(context, processes, compilation_cache, reporter)
        choice = RunChoice(context, processes, Store(spec.checkpoint, retry_budget=retry_budget))
        if (values := choice.find(vocabulary, mesh)) is not None:
            spec = with_choice(spec, values)
            context = with_spec(context, spec)
        program = build_program(spec, vocabulary, mesh, in_step)
        reporter.knows_determinism(program.determinism_in_effect)
        plans = PlanReports(program, spec, reporter)
        steps = CompiledSteps(program, background, programs.fetch, functools.partial(programs.compiled, program, plans))
        steps.start_for(build_schedule(spec.trainer), context.resume_step)
        if not wait_together(processes, notice, lambda seconds: not wait(starting, seconds).not_done):
            return TrainingEnd(context.resume_step, preempted=True)
        dataset = opening.result()
        prints = fingerprints(spec, data=dataset.description)
        checkpointer = open_checkpoints(context, processes, prints, vocabulary, reporter, requests, retry_budget)
        start = find_start(context, processes, program, checkpointer, prints, tokenizer, vocabulary, reporter, retry_budget)
        exporter = begin_exports(context, processes, checkpointer, reporter)
        if exporter is not None:
            last.callback(exporter.close)
        checkpointer.opened()
        choice.keep()
        state = start.state(program)
        if processes.is_main:
            begin_history(context, checkpointer, reporter, start.step)
        start.report(reporter)
        if processes.is_main:
            reporter.placed(place_of(context, jax.devices()))
        reporter.knows(save_interval_seconds=checkpointer.interval_seconds)
        tasks = None
        if task_plan is not None:
            from halcyon.training.tasks import ModelTasks, asking_of

            root = Store(spec.checkpoint)
            asking = asking_of(root, processes, spec=spec)
            tasks = ModelTasks(
                task_plan, spec, load_tokenizer(tokenizer), asking, root, processes, reporter, is_stopped=lambda: sync_point.is_asked
            )

        reporter.stage("compiling")
        batches = (batch_source or _source_of(spec, processes, reporter, checkpointer))(dataset, program, spec.trainer)
        training = Training(
            context, program, steps, dataset, batches, caches, checkpointer, processes, notice, sync_point, requests, reporter, clock,
            export_due=exporter.is_due if exporter is not None else lambda step: False,
            stop_exports=exporter.abandon if exporter is not None else lambda: None,
            profiler=profiler_of(context, reporter, profile_requests or ProfileRequests()),
            evaluated=start.restored.checkpoint.evaluation if start.restored is not None else None,
            tasks=tasks,
        )  # fmt: skip
        publish = functools.partial(programs.publish, plans, 2 * state_bytes(program.template))
        loop = Loop(training, after_first_step=lambda: background.submit(publish))
        try:
            ended = loop.run(state, start.step, save_first=start.begun is not None)
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


def _source_of(spec: TrainingRunSpec, processes: ProcessGroup, reporter: RunReporter, checkpointer: Checkpointer) -> BuildBatchSource:
    """What makes the batches of a run: of its dataset, or of answers to its prompts."""
    if spec.objective.policy is None:
        return dataset_batches
    from halcyon.training.policy.batches import policy_batches  # the import of inference takes time

    def committed() -> int:
        return 0 if checkpointer.newest is None else checkpointer.newest.step

    return policy_batches(spec, processes, reporter.warning, committed)


def _task_plan(spec: TrainingRunSpec) -> TaskPlan | None:
    """The tasks of the run, read before any device is used. What runs them is imported only for a run that has some."""
    if spec.trainer.evaluation.tasks is None:
        return None
    from halcyon.training.tasks import TaskPlan

    return TaskPlan.of(spec)


def _preempted_while_exporting(ended: TrainingEnd, context: Context, notice: PreemptionNotice) -> TrainingEnd:
    """The end of a training whose steps are all saved, and whose exports the next process group completes."""
    left = None if context.grace_seconds is None else context.grace_seconds - notice.age_seconds
    return TrainingEnd(ended.step, preempted=True, last_save=LastSave("step", ended.step, ended.step, SaveBudget(left, None, None)))


def _end(error: Exception, processes: ProcessGroup, on_failed_build: Callable[[Exception], object]) -> None:
    if isinstance(error, TrainerExit):
        leave(processes)  # the builder reports the error to the other processes, which end with it too
    on_failed_build(error)


def _may_begin(context: Context, caches: BackgroundCaches) -> bool:
    return caches.progress.latest is not None and may_begin(context.run.spec, caches.progress.latest)
