"""The task ``train``: one training, from the join to the last save.

It reads top to bottom; `halcyon.run.loop` has the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.data.batch_schedule import build_schedule
from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.open import background_caches, cache_store, dataset_of, may_begin
from halcyon.errors import TrainerExit
from halcyon.models.adapters import check_adapter
from halcyon.models.custom import check_model
from halcyon.models.flops import flops_per_token
from halcyon.optim.groups import check_groups
from halcyon.parallel.preemption import PreemptionNotice, wait_together
from halcyon.parallel.process_group import ProcessGroup, leave
from halcyon.parallel.sync_point import SyncPoint
from halcyon.run.automatic import RunChoice
from halcyon.run.beginning import begin, open_checkpoints, wait_for_root
from halcyon.run.companion import Companion
from halcyon.run.context import Context, check_context, process_name, run_name, with_spec
from halcyon.run.exports import Exports, check_exportable
from halcyon.run.fitting import with_choice
from halcyon.run.loop import Training, TrainingEnd
from halcyon.run.place import Place
from halcyon.run.policy.rewards import reward_named
from halcyon.run.profiling import Profiler
from halcyon.run.programs import KeptPrograms, Programs, open_cache
from halcyon.run.recording import begin_history, placed_fields
from halcyon.run.session import session
from halcyon.run.sources import report_sources
from halcyon.step.batch_source import BuildBatchSource, dataset_batches
from halcyon.step.in_step import InStep
from halcyon.step.program import build_program
from halcyon.storage.retry_budget import RetryBudget
from halcyon.telemetry import ProfileRequests, RunReporter, SaveRequests
from halcyon.tokenizer import load as load_tokenizer
from halcyon.weights.run_templates import with_templates

if TYPE_CHECKING:
    from halcyon.checkpoint import Checkpointer
    from halcyon.evals.benchmarks import Benchmark


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True)
class Surroundings:
    """What a training reports to the program around it, and what that program requests.

    Default: nothing, as for the only process.
    """

    on_lost_process: Callable[[int], object] = _ignore
    """Called in another thread with the index of a lost process; it must end this process."""
    on_failed_build: Callable[[Exception], object] = _ignore
    """Called in another thread with the error of a failed cache build; it must end this process if there are others.
    The main thread may be blocked in a step that another process does not run any more."""
    on_joined: Callable[[ProcessGroup], object] = _ignore
    """Called with the processes when all have joined."""
    on_interrupt: Callable[[int], object] = _ignore
    """Called in another thread at each interrupt from the keyboard, with their number. The first is a notice."""
    save_requests: SaveRequests = field(default_factory=SaveRequests)
    """Requests for a checkpoint while the run trains."""
    profile_requests: ProfileRequests = field(default_factory=ProfileRequests)
    """Requests for a profile while the run trains."""


def train(
    context: Context,
    reporter: RunReporter,
    around: Surroundings,
    *,
    compilation_cache: Path,
    retry_budget: RetryBudget,
    batch_source: BuildBatchSource | None = None,
    in_step: Sequence[InStep] = (),
) -> TrainingEnd:
    """Train until the last step or a preemption notice.

    After the last step, all steps are committed when this returns. After a notice, `TrainingEnd.last_save` says which
    steps were committed within the grace period; on the user's own machine, which has no grace period, all steps are.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the progress.
        around: The program around the training.
        compilation_cache: Local directory of compiled programs.
        retry_budget: The waits for stores that deny access while the run starts.
        batch_source: Makes the source of the batches. Default: the run's dataset, or answers to its prompts with
            ``objective.policy``.
        in_step: Functions of the library's user inside the compiled step.

    Raises:
        TrainerExit: The run cannot continue; the class gives the cause and the exit code.
    """
    context, benchmarks = _checked(context)
    spec = context.run.spec
    caches = background_caches(
        spec, process=process_name(context), run=run_name(context), report=reporter.tokenized, retry_budget=retry_budget
    )
    with (
        contextlib.ExitStack() as last,
        ThreadPoolExecutor(max_workers=3, thread_name_prefix="halcyon-start") as background,
        contextlib.closing(caches),
        contextlib.closing(retry_budget),
        session(context, reporter, on_lost_process=around.on_lost_process, on_joined=around.on_joined) as joined,
    ):
        processes, text = joined.processes, caches.progress
        sync_point = SyncPoint(processes, on_notice=retry_budget.stop)
        notice = last.enter_context(PreemptionNotice(on_arrival=sync_point.notice, on_interrupt=around.on_interrupt))
        text.on_failure(lambda error: _end(error, processes, around.on_failed_build))
        context, mesh = joined.lay_out()
        place = Place(context, processes, reporter, retry_budget)

        reporter.stage("tokenizing")
        if not wait_together(
            processes, notice, lambda seconds: text.wait_for(lambda: _may_begin(context, caches), seconds)
        ):
            return TrainingEnd(context.resume_step, preempted=True)
        if processes.is_main:
            report_sources(reporter, spec.data, text.caches)
        reporter.stage("restoring")
        opening = background.submit(dataset_of, spec, cache_store(spec, retry_budget), text.caches, text)
        starting: list[Future[Any]] = [opening, background.submit(wait_for_root, place)]
        tokenizer = load_tokenizer(text.caches.tokenizer)
        vocabulary = tokenizer.vocab_size
        reporter.knows(
            flops_per_token=flops_per_token(
                spec.model, spec.trainer.sequence_length, vocabulary, frozen=spec.lora is not None
            )
        )
        cache = open_cache(place, compilation_cache)
        last.callback(cache.close)
        choice = RunChoice(place)
        if (values := choice.find(vocabulary, mesh)) is not None:
            place = place.with_spec(with_choice(spec, values))
            spec = place.spec
        program = build_program(spec, vocabulary, mesh, in_step)
        reporter.knows_determinism(program.determinism_in_effect)
        programs = Programs(program, background, KeptPrograms(place, program, cache))
        programs.start_for(build_schedule(spec.trainer), context.resume_step)
        if not wait_together(processes, notice, lambda seconds: not wait(starting, seconds).not_done):
            return TrainingEnd(context.resume_step, preempted=True)
        dataset = opening.result()
        prints = fingerprints(spec, data=dataset.description)
        checkpointer = open_checkpoints(place, prints, vocabulary, around.save_requests)
        beginning = begin(place, program, checkpointer, prints, text.caches.tokenizer)
        companions: list[Companion] = [programs, Profiler(place, programs, around.profile_requests)]
        last.callback(_close, companions)
        if spec.export is not None:
            companions.append(Exports(spec.export, place, checkpointer, notice))
        if benchmarks is not None:
            from halcyon.run.benchmark_runs import BenchmarkRuns

            companions.append(
                BenchmarkRuns(benchmarks, place, program, tokenizer, checkpointer, lambda: sync_point.is_asked)
            )
        checkpointer.opened()
        choice.keep()
        state = beginning.state(program)
        if processes.is_main:
            begin_history(place, checkpointer, beginning.step)
        beginning.report(reporter, checkpointer.head_loss)
        if processes.is_main:
            reporter.placed(placed_fields(context, jax.devices()))
        reporter.knows(save_interval_seconds=checkpointer.interval_seconds)

        reporter.stage("compiling")
        batches = (batch_source or _source_of(place, checkpointer))(dataset, program, spec.trainer)
        training = Training(
            place, programs, dataset, batches, caches, checkpointer, notice, sync_point, around.save_requests,
            time.time, companions,
            beginning.evaluated,
        )  # fmt: skip
        try:
            ended = training.run(state, beginning.step, save_first=beginning.is_new)
        finally:
            training.close()
            checkpointer.close()
        # End the background work before `leave`: until then the other processes still wait for this one.
        background.shutdown()
        caches.close()
        return ended


def _checked(context: Context) -> tuple[Context, list[Benchmark] | None]:
    """The run with the chat templates of its data, and its benchmarks, read and checked before any device is used.

    Raises:
        BadConfiguration: The run cannot be trained.
    """
    check_context(context)
    context = with_spec(context, with_templates(context.run.spec))
    spec = context.run.spec
    check_model(spec.model)
    check_adapter(spec.model, spec.lora)
    check_groups(spec.model, spec.optimizer, spec.lora)
    check_exportable(context)
    if spec.objective.policy is not None:
        reward_named(spec.objective.policy.reward)
    if spec.trainer.evaluation.tasks is None:
        return context, None
    from halcyon.evals.benchmarks import read_of_document  # most runs have none, and need not import what runs them

    return context, read_of_document(spec.trainer.evaluation.tasks)


def _source_of(place: Place, checkpointer: Checkpointer) -> BuildBatchSource:
    """What makes the batches of a run: of its dataset, or of answers to its prompts."""
    if place.spec.objective.policy is None:
        return dataset_batches
    from halcyon.run.policy.batches import policy_batches  # the import of inference takes time

    def committed() -> int:
        return 0 if checkpointer.newest is None else checkpointer.newest.step

    return policy_batches(place.spec, place.processes, place.reporter.warning, committed)


def _close(companions: list[Companion]) -> None:
    for companion in reversed(companions):
        companion.close()


def _end(error: Exception, processes: ProcessGroup, on_failed_build: Callable[[Exception], object]) -> None:
    if isinstance(error, TrainerExit):
        leave(processes)  # the builder reports the error to the other processes, which end with it too
    on_failed_build(error)


def _may_begin(context: Context, caches: BackgroundCaches) -> bool:
    return caches.progress.latest is not None and may_begin(context.run.spec, caches.progress.latest)
