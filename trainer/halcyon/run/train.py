"""The task ``train``, and ``replay``, a training that is compared: from the join to the last save.

It reads top to bottom; `halcyon.run.loop` has the steps.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.checkpoint.memory.tier import MemoryTier
from halcyon.data.batch_schedule import build_schedule
from halcyon.data.cache.background import CacheProgress
from halcyon.data.dataset import Dataset, NoData
from halcyon.data.open import background_caches, cache_store, dataset_of, may_begin
from halcyon.data.source_notes import source_notes
from halcyon.host.documents import DEFAULT_COMPILATION_CACHE
from halcyon.host.errors import TrainerExit
from halcyon.models.registry import flops_per_token
from halcyon.parallel.preemption import PreemptionNotice, wait_together
from halcyon.parallel.process_group import ProcessGroup, leave
from halcyon.parallel.sync_point import SyncPoint
from halcyon.run.auto_tuning import with_choice
from halcyon.run.beginning import Beginning, begin, from_origin, open_checkpoints, open_memory, recall, wait_for_root
from halcyon.run.callback import Callback
from halcyon.run.checks import check_sections
from halcyon.run.context import Context, Surroundings
from halcyon.run.data import checked, keeper_of, report_sources, report_warnings
from halcyon.run.features import features_of
from halcyon.run.loop import Training, TrainingEnd
from halcyon.run.own_work import OwnWork
from halcyon.run.place import Place, session
from halcyon.run.programs import KeptPrograms, Programs, open_cache
from halcyon.run.recorded_tuning import RunChoice
from halcyon.run.replay import Replay, rounded
from halcyon.run.setup import Setup
from halcyon.run.spare import Spare
from halcyon.run.teacher import with_teacher
from halcyon.run.trust import check_devices
from halcyon.step.batch_source import BuildBatchSource, dataset_batches
from halcyon.step.batches_override import BatchesOverride
from halcyon.step.in_step import InStep
from halcyon.step.overrides import Overrides
from halcyon.step.program import build_program
from halcyon.telemetry import RunReporter
from halcyon.telemetry.history.segments import ProcessGroupId
from halcyon.telemetry.history.writer import HistoryWriter
from halcyon.tokenizer import load as load_tokenizer
from halcyon_api.status.goodput import CAUSES


def train(
    context: Context,
    reporter: RunReporter,
    around: Surroundings,
    *,
    compilation_cache: Path | None,
    batch_source: BuildBatchSource | None = None,
    in_step: Sequence[InStep] = (),
    overrides: Overrides | None = None,
) -> TrainingEnd:
    """Train until the last step or a preemption notice.

    After the last step, all steps are committed when this returns. After a notice, `TrainingEnd.last_save` says which
    steps were committed within the grace period; on the user's own machine, which has no grace period, all steps are.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the progress.
        around: The program around the training.
        compilation_cache: Local directory of compiled programs. None: `DEFAULT_COMPILATION_CACHE`.
        batch_source: Makes the source of the batches. Default: the run's dataset, or answers to its prompts with
            ``objective.policy``.
        in_step: Functions of the library's user inside the compiled step.
        overrides: Parts of the training that the library's user gives in the place of sections of the document.

    Raises:
        TrainerExit: The run cannot continue; the class gives the cause and the exit code.
    """
    overrides = overrides or Overrides()
    context = checked(context)
    spec = context.spec
    benchmarks = check_sections(spec, has_model=overrides.model is None)
    caches = background_caches(spec, lambda: keeper_of(context, reporter, around))
    with (
        contextlib.ExitStack() as last,
        ThreadPoolExecutor(max_workers=3, thread_name_prefix="halcyon-start") as background,
        contextlib.closing(caches),
        contextlib.closing(around.retry_budget),
        session(context, reporter, around) as joined,
        _reporting(around.on_error),
    ):
        processes, text = joined.processes, caches.progress
        sync_point = SyncPoint(processes, on_notice=around.retry_budget.stop)

        def noticed() -> None:
            around.on_notice()
            sync_point.notice()

        notice = last.enter_context(PreemptionNotice(on_arrival=noticed, on_interrupt=around.on_interrupt))
        text.on_failure(lambda error: _end(error, processes, around.on_failed_build))
        place, mesh = joined.lay_out()

        reporter.stage("tokenizing")
        if not wait_together(
            processes,
            notice,
            lambda seconds: text.wait_for(lambda: text.latest is not None and may_begin(spec, text.latest), seconds),
        ):
            return TrainingEnd(context.resume_step, preempted=True)
        if processes.is_main:
            report_warnings(reporter, spec, text.caches)
        reporter.stage("restoring")
        opening = background.submit(_open_data, place, overrides, text)
        starting = [opening, background.submit(wait_for_root, place)]
        tokenizer = load_tokenizer(text.caches.tokenizer)
        vocabulary = tokenizer.vocab_size
        cache = open_cache(place, compilation_cache or DEFAULT_COMPILATION_CACHE)
        last.callback(cache.close)
        choice = RunChoice(place)
        if (values := choice.find(vocabulary, mesh)) is not None:
            place = place.with_spec(with_choice(spec, values))
            spec = place.spec
        program = build_program(spec, vocabulary, mesh, in_step, overrides, tokenizer)
        reporter.event("determinism", program.determinism_in_effect)
        slow = check_devices(place, program)
        programs = Programs(program, background, KeptPrograms(place, program, cache))
        programs.start_for(build_schedule(spec.trainer), context.resume_step)
        if not wait_together(processes, notice, lambda seconds: not wait(starting, seconds).not_done):
            return TrainingEnd(context.resume_step, preempted=True)
        dataset = opening.result()
        # In the background, because it reads the end of each document.
        noting = background.submit(lambda: list(source_notes(text.caches, dataset) if processes.is_main else ()))
        described = dataset.description
        if overrides.names:
            described["overrides"] = overrides.description(program.template.optimizer_state)
        prints = fingerprints(spec, data=described)
        memory = open_memory(place)
        if memory is not None:
            last.callback(memory.close)
        checkpointer = open_checkpoints(place, prints, vocabulary, around.save_requests, memory)
        numbers = StepNumbers()
        beginning = recall(program, checkpointer, memory, numbers) or begin(
            place, program, checkpointer, prints, text.caches.tokenizer
        )
        replay = Replay(place, checkpointer, beginning.step) if spec.task == "replay" else None
        setup = Setup(
            place, programs, tokenizer, checkpointer, notice, sync_point,
            numbers if replay is None else replay.numbers, around.save_requests, around.profile_requests, benchmarks,
            memory,
        )  # fmt: skip
        callbacks: list[Callback] = [programs] if replay is None else [programs, replay]
        last.callback(lambda: [callback.close() for callback in reversed(callbacks)])
        if context.link is not None:
            callbacks.append(Spare(context.link))
        if processes.lifeline is not None:
            callbacks.append(OwnWork(place, processes.lifeline, programs, slow))
        callbacks.extend(features_of(setup))  # one by one: if one fails, those before it are closed
        checkpointer.opened()
        choice.keep()
        state = with_teacher(place, program, tokenizer, beginning, beginning.state(program))
        if processes.is_main:
            begin_history(place, checkpointer, beginning.step, memory)
            report_sources(reporter, noting.result())
        _report_beginning(setup, beginning, overrides)

        reporter.stage("compiling")
        batches = (batch_source or _source_of(overrides, setup))(dataset, program, spec.trainer)
        training = Training(
            **vars(setup),
            dataset=dataset,
            batches=batches,
            caches=caches,
            last_step=spec.trainer.steps if replay is None else replay.last,
            callbacks=callbacks,
            evaluated=beginning.evaluated,
        )
        if replay is not None:
            # Lazily: it reads the state of the first step again.
            replay.once_more = lambda: training.again(
                rounded(from_origin(place, program, prints).state(program), jnp.dtype(spec.trainer.precision.compute)),
                replay.first,
            )
        try:
            ended = training.run(
                state, beginning.step, save_first=beginning.is_new, is_saved=beginning.kind != "memory"
            )
        finally:
            training.close()
            checkpointer.close()
        # End the background work before `leave`: until then the other processes still wait for this one.
        background.shutdown()
        caches.close()
        return ended if replay is None else dataclasses.replace(ended, found=replay.found)


@contextlib.contextmanager
def _reporting(on_error: Callable[[Exception], object]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        on_error(error)
        raise


def _open_data(place: Place, overrides: Overrides, text: CacheProgress) -> Dataset:
    """The dataset of a run, or what stands for it beside given batches."""
    if overrides.source is None:
        return dataset_of(place.spec, cache_store(place.spec, place.retry_budget), text.caches, text)
    return NoData(load_tokenizer(text.caches.tokenizer), build_schedule(place.spec.trainer))


def _source_of(overrides: Overrides, setup: Setup) -> BuildBatchSource:
    """What makes the batches of a run: given ones, those of its dataset, or answers to its prompts."""
    if (batches := overrides.source) is not None:
        return lambda dataset, program, _: BatchesOverride(batches, program.microbatches, program.batch_sharding)
    if setup.place.spec.objective.policy is None:
        return dataset_batches
    from halcyon.run.policy.batches import PolicyBatches  # the import of inference takes time

    return lambda dataset, program, _: PolicyBatches(dataset, program, setup)


def _report_beginning(setup: Setup, beginning: Beginning, overrides: Overrides) -> None:
    """Report what the training begins with, and what it trains on."""
    place, checkpointer, reporter = setup.place, setup.checkpointer, setup.place.reporter
    beginning.report(reporter, checkpointer.epoch, checkpointer.head_loss)
    if beginning.recalled is not None:
        reporter.found_checkpoint(checkpointer.newest)
    if place.processes.is_main:
        reporter.event("placed", **placed_fields(place.context, jax.devices(), overrides))
        if overrides.warning is not None:
            reporter.warning(overrides.warning)
    spec, flops = place.spec, None
    if overrides.model is None:
        flops = flops_per_token(
            spec.model, spec.trainer.sequence_length, setup.tokenizer.vocab_size, frozen=spec.lora is not None
        )
    reporter.knows(save_interval_seconds=checkpointer.interval_seconds, flops_per_token=flops)


def _end(error: Exception, processes: ProcessGroup, on_failed_build: Callable[[Exception], object]) -> None:
    if isinstance(error, TrainerExit):
        leave(processes)  # the builder reports the error to the other processes, which end with it too
    on_failed_build(error)


def begin_history(place: Place, checkpointer: Checkpointer, step: int, memory: MemoryTier | None) -> None:
    """Record the run from here on, beside its checkpoints. Only for process 0, which has the root.

    Args:
        place: The run, whose reports are recorded.
        checkpointer: The root that was taken.
        step: Steps done.
        memory: Its snapshots wait for the history.
    """
    context, reporter = place.context, place.reporter
    group = ProcessGroupId(
        number=0,  # the writer finds it in the root
        attempt=checkpointer.epoch.attempt,
        restart=checkpointer.epoch.restart,
        writer=checkpointer.writer,
        resumed_step=step,
        began=round(reporter.observe().began_time, 3),
        run=context.owner.name,
        steps=context.spec.trainer.steps,
    )

    def account() -> dict[str, Any]:
        state = reporter.observe()
        seconds = state.seconds
        return {"step": max(step, state.step), "seconds": {cause: getattr(seconds, cause) for cause in CAUSES}}

    writer = HistoryWriter(context.spec.checkpoint, group, account=account, on_warning=reporter.warning)
    checkpointer.segments = lambda step: writer.written()
    if memory is not None:
        memory.flushed = writer.flushed
    reporter.listen(writer)


def placed_fields(context: Context, devices: Sequence[Any], overrides: Overrides) -> dict[str, Any]:
    """What the process group trains on, and where its run comes from: the fields of the event ``placed``.

    Args:
        context: The run.
        devices: All devices of the run.
        overrides: What the library's user gives.
    """
    spec, accelerator = context.spec, context.spec.accelerator
    on_processors = devices[0].platform == "cpu"  # its devices are pretended, so its chips are its hosts
    chips = context.process_count if on_processors else len(devices) // accelerator.row.devices_per_chip
    origin, after = spec.origin, spec.after
    hugging_face = origin and origin.hugging_face
    return {
        "accelerator": accelerator.type,
        "topology": accelerator.topology,
        "slices": context.topology.slices,
        "provisioning": accelerator.provisioning,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "chips": max(1, chips),
        "price_per_chip_hour": accelerator.price_per_chip_hour,
        "from_run": origin and origin.run,
        "from_root": hugging_face.path if hugging_face else origin and origin.root,
        "from_step": origin and origin.step,
        "after_run": after and after.run,
        "overrides": {name: path or "" for name, path in overrides.names.items()} or None,
    }
