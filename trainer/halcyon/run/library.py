"""A training as a function call, such as in a notebook: the same run, checkpoints and numbers as with ``halcyon
train``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from halcyon.errors import BadConfiguration
from halcyon.host.root_lock import held_root
from halcyon.run.context import resolve_context, retry_seconds, run_plan
from halcyon.storage.retry_budget import RetryBudget
from halcyon.telemetry import EventLog, RunIdentity, RunReporter, StepReport, open_log
from halcyon.telemetry.history.background import Row
from halcyon_api.checkpoint_documents import CommittedStep
from halcyon_api.status.progress import Stage

if TYPE_CHECKING:
    import numpy as np

    from halcyon.step.in_step import SeesStep
    from halcyon.telemetry.evaluation import Evaluation


_CLOSE_SECONDS = 30.0
"""Longest time at the end of a training in which its history is completed."""


def _ignore(*_: object) -> None:
    return


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
    on_step: Callable[[StepReport], object] = _ignore
    in_step: SeesStep | None = None
    on_evaluation: Callable[[int, Evaluation], object] = _ignore
    on_average: Callable[[int, Evaluation], object] = _ignore
    on_checkpoint: Callable[[CommittedStep], object] = _ignore
    on_watch: Callable[[int, Mapping[str, np.ndarray]], object] = _ignore
    on_end: Callable[[Trained], object] = _ignore

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
    """

    step: int
    complete: bool
    root: str
    stopped: str | None = None


def train(
    document: Path | str | Mapping[str, Any],
    *,
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

    Args:
        document: The run: a ``run.yaml``, or its contents.
        hooks: Functions to call while it trains: one `Hooks`, or several with an ``every`` of their own, called in
            their order.
        checkpoint_root: Replaces ``spec.checkpoint.root``.
        defaults: Files of TrainingRunDefaults for fields that the document does not set.
        on_cpu: Train on the processor instead of the document's accelerator.
        log: Stream for the log: a live line on a terminal, JSON lines elsewhere. Default: no log.
        compilation_cache: Directory of compiled programs. Default: in the user's cache.

    Raises:
        BadConfiguration: The document is not valid, or its task is not ``train``.
        ValueError: Two functions inside the step return a number of the same name.
        TrainerExit: The run cannot continue; the class gives the cause.
    """
    from halcyon.run.train import Surroundings  # imports JAX
    from halcyon.run.train import train as train_run
    from halcyon.step.in_step import InStep

    sets = (hooks,) if isinstance(hooks, Hooks) else tuple(hooks)
    place = Path(document) if isinstance(document, str) else document
    context = resolve_context(place, {}, checkpoint_root=checkpoint_root, defaults=defaults, on_cpu=on_cpu)
    spec = context.spec
    if spec.task != "train":
        raise BadConfiguration(
            f"spec.task: halcyon.train only trains; run the task {spec.task} with `halcyon train RUN.YAML`"
        )
    identity = RunIdentity(run=context.owner.name)
    events: EventLog = _NoLog() if log is None else open_log(log, identity, steps=spec.trainer.steps)
    reporter = RunReporter(identity, run_plan(context), events)
    reporter.listen(_HookListener(sets, spec.trainer.steps))
    try:
        with held_root(spec.checkpoint.root, "halcyon.train"):
            ended = train_run(
                context,
                reporter,
                Surroundings(),  # no other process; the main thread waits for the builds, and raises their errors
                compilation_cache=compilation_cache,
                retry_budget=RetryBudget(retry_seconds(context)),
                in_step=[InStep(one.in_step, one.every) for one in sets if one.in_step is not None],
            )
    finally:
        reporter.close_listeners(_CLOSE_SECONDS)
        events.close()
    trained = Trained(ended.step, not ended.preempted, spec.checkpoint.root, ended.stopped)
    for one in sets:
        one.on_end(trained)
    return trained


class _HookListener:
    """Calls hooks with the reports of a run.

    Args:
        hooks: The hooks, in the order of their calls.
        steps: Steps of the whole run.
    """

    def __init__(self, hooks: Sequence[Hooks], steps: int) -> None:
        self._hooks, self._steps = hooks, steps

    def record(self, row: Row) -> None:
        """Call the hooks for a report, in the thread that reports. An error of a hook ends this thread's work."""
        if row.report is not None:
            for one in self._hooks:
                self._call(one, row.event, row.fields.get("step", 0), row.report)

    def _call(self, hooks: Hooks, event: str, step: int, report: Any) -> None:
        if event == "step" and (step % hooks.every == 0 or step == self._steps):
            hooks.on_step(report)
        elif event == "evaluation":
            evaluation, average = report
            hooks.on_evaluation(step, evaluation)
            if average is not None:
                hooks.on_average(step, average)
        elif event == "watched":
            hooks.on_watch(step, report)
        elif event == "checkpoint":
            hooks.on_checkpoint(report)

    def hurry(self) -> None:
        """Do nothing: hooks keep nothing."""

    def close(self, seconds: float) -> None:
        """Do nothing."""


class _NoLog:
    """A log that is not written."""

    def event(self, name: str, **fields: Any) -> None:
        """Ignore an event."""

    def stage(self, stage: Stage) -> None:
        """Ignore a stage."""

    def close(self) -> None:
        """Do nothing."""
