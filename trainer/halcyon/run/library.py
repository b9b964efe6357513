"""A training as a function call, such as in a notebook: the same run, checkpoints and numbers as with ``halcyon
train``. For an experiment the caller may give a model, an update rule, a loss or batches of its own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from halcyon.host.errors import BadConfiguration
from halcyon.host.root_lock import held_root
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.run.context import Surroundings, ignore, resolve_context, retry_seconds, run_plan, written
from halcyon.run.outcome import error_outcome, in_words
from halcyon.telemetry import EventLog, RunReporter, StepReport, open_log, termination_report
from halcyon.telemetry.history.background import Listener, Row
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.ends import EndCause
from halcyon_api.training_run import TrainingRun

if TYPE_CHECKING:
    import equinox as eqx
    import numpy as np
    import optax

    from halcyon.step.in_step import SeesStep
    from halcyon.step.overrides import Loss, Overrides
    from halcyon_api.status.evaluation import Evaluation


_CLOSE_SECONDS = 30.0
"""Longest time at the end of a training in which its history is completed."""


@dataclass(frozen=True)
class Hooks:
    """Functions that are called while a run trains. They see the numbers and change none. An error of a hook ends the
    training.

    Attributes:
        every: `on_step` and `in_step` are called for every N-th step, counted from 1; `on_step` also for the last step.
        on_step: Called in the main thread after a step, one step late, with its numbers.
        in_step: Called inside the compiled step with its gradients and updates (`halcyon.StepView`); traced by JAX. It
            returns scalars by name, which become members of ``StepReport.metrics`` and of the log. The program of the
            step differs with it, so losses may differ in their last digits from those of a run without it.
        on_evaluation: Called in the main thread with the steps done and the result of an evaluation of the held-out
            part.
        on_average: The same of the average of the parameters, in a run with ``spec.average``.
        on_checkpoint: Called in a background thread with each committed checkpoint.
        on_watch: Called in the main thread after each watched step (``spec.telemetry.watch``), one step late, with the
            steps done and float32 arrays by ``WHAT/STATISTIC/PARAMETER``: one number for each layer, and for a
            histogram its bins as the last axis.
        on_end: Called once in the main thread, after the last save. Not called if the training ends with an error.
    """

    every: int = 1
    on_step: Callable[[StepReport], object] = ignore
    in_step: SeesStep | None = None
    on_evaluation: Callable[[int, Evaluation], object] = ignore
    on_average: Callable[[int, Evaluation], object] = ignore
    on_checkpoint: Callable[[CommittedStep], object] = ignore
    on_watch: Callable[[int, Mapping[str, np.ndarray]], object] = ignore
    on_end: Callable[[Trained], object] = ignore

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"Hooks: every must be at least 1, not {self.every}")


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        step: Steps done and saved.
        complete: Whether the run has ended, and all exports are complete. If not, an interrupt came; the next call goes
            on from here.
        root: Address of the checkpoints, for `halcyon.load`.
        stopped: Why it stopped early, if it did (``trainer.evaluation.best.patience``).
        model: The given model with its trained parameters. None: the model is of the document, and `halcyon.load` reads
            it.
        overrides: The objects given in the place of sections of the document, each with its import path; None: it has
            none.
    """

    step: int
    complete: bool
    root: str
    stopped: str | None = None
    model: Any = field(default=None, compare=False, repr=False)
    overrides: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])

    @property
    def resumable(self) -> bool:
        """Whether the document and `overrides` are enough to go on with the run. If not, only a program with the same
        objects can.
        """
        return None not in self.overrides.values()


def train(
    document: Path | str | Mapping[str, Any] | TrainingRun,
    *,
    model: eqx.Module | Callable[[], eqx.Module] | str | None = None,
    optimizer: optax.GradientTransformation | Callable[[], optax.GradientTransformation] | str | None = None,
    objective: Loss | str | None = None,
    batches: Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]] | str | None = None,
    hooks: Hooks | Sequence[Hooks] = (),
    checkpoint_root: str | None = None,
    defaults: Sequence[Path] = (),
    on_cpu: bool = False,
    log: TextIO | None = None,
    compilation_cache: Path | None = None,
) -> Trained:
    """Train a run in this process, which is the whole run. Call it in the main thread.

    It goes on from the newest checkpoint of the run, if there is one. An interrupt from the keyboard saves the last
    step and returns. ``spec.env`` and the port of ``spec.telemetry`` have no effect. JAX takes the number of virtual
    devices of a ``cpu`` accelerator at its first use, so train before other code uses JAX, or give a topology of one
    device.

    `model`, `optimizer`, `objective` and `batches` take the place of a section of the document, which then lacks it.
    Each may be given as an import path ``module:name`` too, and all but the loss as a function without arguments that
    makes it. A later call with the same objects goes on from the checkpoint.

    Args:
        document: The run: a ``run.yaml``, its contents, or a `halcyon_api.training_run.TrainingRun`.
        model: An Equinox module, for ``spec.model``: what the first step begins with. Its floating-point arrays are
            trained. One that is no `halcyon.models.CausalLM` needs `optimizer` and `objective`.
        optimizer: A gradient transformation of Optax, with its learning rate, for ``spec.optimizer``. The log has the
            rate of ``optax.inject_hyperparams``.
        objective: ``loss(model, batch, key)``, for ``spec.objective``: the mean over the rows of a batch, as a scalar,
            or a `halcyon.Sums`. It gets one microbatch: arrays [rows, …] by name, those of the batches; without
            `batches`, ``tokens``, ``targets``, ``weights`` and ``segments`` [rows, position]. ``key`` is a random key,
            None in an evaluation. It is traced by JAX.
        batches: For ``spec.data``: dictionaries of arrays [rows, …] by name, all with the same shapes. A sequence,
            whose item N is the batch of step N + 1; or an iterator from the first batch on, whose used batches are
            drawn again when the run goes on.
        hooks: Functions to call while it trains: one `Hooks`, or several with an ``every`` of their own, called in
            their order.
        checkpoint_root: Replaces ``spec.checkpoint.root``.
        defaults: Files of TrainingRunDefaults for fields that the document does not set.
        on_cpu: Train on the processor instead of the document's accelerator.
        log: Stream for the log: a live line on a terminal, JSON lines elsewhere. Default: no log.
        compilation_cache: Directory of compiled programs. Default: in the user's cache.

    Raises:
        BadConfiguration: The document or a given object is not valid, or the task is not ``train``.
        ValueError: Two functions inside the step return a number of the same name.
        TrainerExit: The run cannot continue; the class gives the cause.
    """
    from halcyon.run.train import train as train_run  # imports JAX
    from halcyon.step.in_step import InStep
    from halcyon.step.overrides import Overrides

    overrides = Overrides(model, optimizer, objective, batches)
    sets = (hooks,) if isinstance(hooks, Hooks) else tuple(hooks)
    place = Path(document) if isinstance(document, str) else document
    if overrides.names:
        place = _completed(place, overrides)
    context = resolve_context(place, {}, checkpoint_root=checkpoint_root, defaults=defaults, on_cpu=on_cpu)
    spec = context.spec
    if overrides.source is not None:
        # No document can express it: there is no source, and a row that is no text counts as one token.
        trainer = spec.trainer.but(sequence_length=overrides.source.rows.length)
        context = context.with_spec(spec.but(data=spec.data.but(sources=[]), trainer=trainer))
        spec = context.spec
    if spec.task != "train":
        raise BadConfiguration(
            f"spec.task: halcyon.train only trains; run the task {spec.task} with `halcyon train RUN.YAML`"
        )
    identity = context.identity
    events = _NoLog() if log is None else open_log(log, identity, steps=spec.trainer.steps)
    reporter = RunReporter(identity, run_plan(context), events)
    reporter.listen(_HookListener(sets, spec.trainer.steps))
    interrupts: list[int] = []

    def report_end(cause: EndCause, message: str, **facts: Any) -> None:
        words = in_words(message, len(interrupts))
        step = reporter.report().progress.step
        reporter.ended(termination_report(identity, cause=cause, message=words, step=step, **facts))

    try:
        with held_root(spec.checkpoint.root, "halcyon.train"):
            ended = train_run(
                context,
                reporter,
                # No other process; the main thread waits for the builds, and raises their errors.
                Surroundings(RetryBudget(retry_seconds(context)), on_interrupt=interrupts.append),
                compilation_cache=compilation_cache,
                overrides=overrides,
                in_step=[InStep(one.in_step, one.every) for one in sets if one.in_step is not None],
            )
    except BaseException as error:
        with contextlib.suppress(Exception):  # the error of the training is the one to raise
            report_end(*error_outcome(error)[:2])
        raise
    else:
        cause, message, facts = ended.outcome(spec.trainer.steps)
        report_end(cause, message, **facts)
    finally:
        reporter.close_listeners(_CLOSE_SECONDS)
        events.close()
    trained = Trained(
        ended.step,
        not ended.preempted,
        spec.checkpoint.root,
        ended.stopped,
        None if overrides.parts is None or ended.model is None else overrides.parts.module(ended.model),
        overrides.names,
    )
    for one in sets:
        one.on_end(trained)
    return trained


_SECTIONS = {"model": "model", "optimizer": "optimizer", "objective": "objective", "batches": "data"}
"""The section of the document whose place each object takes."""
_NEEDS = {
    "model": ("from", "adapter", "export", "trainer.evaluation.tasks"),
    "objective": ("trainer.dropout",),
    "batches": ("trainer.evaluation.everySteps", "trainer.batchSchedule", "objective.policy"),
}
"""Sections that need what the objects replace."""
_FILLERS = {
    "model": {"family": "custom", "class": "given:Model"},
    "data": {"sources": [{"name": "given", "text": {"paths": ["/given"]}}], "attendAcrossDocuments": True},
}
"""What stands in the place of a section that the schema needs."""


def _completed(document: Path | Mapping[str, Any] | TrainingRun, overrides: Overrides) -> dict[str, Any]:
    """The document with what the given objects decide.

    Raises:
        BadConfiguration: It has a section that is given too or that needs what was replaced, or the batches are not
            valid.
    """
    whole = written(document)
    if not isinstance(spec := whole.setdefault("spec", {}), dict):
        return whole  # which is rejected with the field
    for name in overrides.names:
        section = _SECTIONS[name]
        for path in (section, *_NEEDS.get(name, ())):
            if _at(spec, path):
                raise BadConfiguration(
                    f"spec.{path}: it does not go together with {name}, which is given; leave one of them out"
                )
        if section in _FILLERS:
            spec[section] = copy.deepcopy(_FILLERS[section])
    for field_name in ("microbatches", "remat", "offload"):
        if _at(spec, f"trainer.{field_name}") == "auto":
            raise BadConfiguration(
                f"spec.trainer.{field_name}: auto needs a document without given objects; set a value"
            )
    if overrides.source is not None:
        trainer, rows = spec.setdefault("trainer", {}), overrides.source.rows
        if trainer.setdefault("batchSize", rows.batch_size) != rows.batch_size:
            raise BadConfiguration(
                f"spec.trainer.batchSize: it is {trainer['batchSize']}, but the given batches have {rows.batch_size} "
                "rows; leave it out"
            )
        trainer.pop("sequenceLength", None)
    return whole


def _at(spec: Mapping[str, Any], path: str) -> Any:
    found: Any = spec
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


@dataclass(eq=False)
class _HookListener(Listener):
    """Calls hooks with the reports of a run.

    Args:
        hooks: The hooks, in the order of their calls.
        steps: Steps of the whole run.
    """

    hooks: Sequence[Hooks]
    steps: int

    def record(self, row: Row) -> None:
        """Call the hooks for a report, in the thread that reports. An error of a hook ends this thread's work."""
        if row.report is None:
            return
        event, step = row.event, row.fields.get("step", 0)
        report: Any = row.report
        for one in self.hooks:
            if event == "step" and (step % one.every == 0 or step == self.steps):
                one.on_step(report)
            elif event == "evaluation":
                evaluation, average = report
                one.on_evaluation(step, evaluation)
                if average is not None:
                    one.on_average(step, average)
            elif event == "watched":
                one.on_watch(step, report)
            elif event == "checkpoint":
                one.on_checkpoint(report)


class _NoLog(EventLog):
    """A log that is not written."""
