"""A consistent copy of what a process knows of its run, and the documents that are made from it.

The copy is made under the lock of the reports, the documents without it, in the thread of the request that asks for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from halcyon.telemetry.clock import microseconds, timestamp
from halcyon.telemetry.health import Health
from halcyon.telemetry.log import RunIdentity
from halcyon.telemetry.observation import Observation, RunPlan, StepReport, Tallies, WatchedParameter
from halcyon.telemetry.tokenizing import TokenizedSource
from halcyon_api.checkpoint_documents import EvaluationRecord
from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.progress import CheckpointProgress, Evaluated, Progress, ProgressReport, Stage, StartupSeconds, StoreWait


@dataclass
class Facts:
    """The newest reports."""

    stage: Stage = "starting"
    stage_began: float = 0.0
    tokenized_at: float = -math.inf
    resumed_step: int | None = None
    first_step_time: float | None = None
    last_step_time: float | None = None
    last_step: StepReport | None = None
    evaluation_loss: float | None = None
    bits_per_byte: float | None = None
    best: EvaluationRecord | None = None
    stopped_early: bool = False
    average_loss: float | None = None
    evaluated: Evaluated | None = None
    tasks: dict[str, float] | None = None
    watched: tuple[WatchedParameter, ...] = ()
    batches: int = 0
    checkpoint: CheckpointProgress | None = None
    checkpoint_time: float | None = None
    fallback_reason: str | None = None
    head_loss: str | None = None
    checkpoint_error: str | None = None
    save_interval_seconds: float | None = None
    exported_step: int | None = None
    attention: tuple[str, ...] = ()
    determinism: str | None = None
    plan: str | None = None
    waiting: StoreWait | None = None
    waits_until: float | None = None
    paused_seconds: float = 0.0
    tallies: Tallies = field(default_factory=Tallies)


@dataclass(frozen=True)
class Snapshot:
    """The facts of one moment, with what follows from them."""

    facts: Facts
    plan: RunPlan
    step: int
    """Steps done, or batches in a run that evaluates."""
    tokens_per_second: float | None
    eta_seconds: float | None
    tallies: Tallies
    sources: tuple[TokenizedSource, ...]
    startup: StartupSeconds
    seconds: GoodputSeconds
    health: Health
    time: str
    """The moment, in the form of reports."""

    def observation(self, identity: RunIdentity, started_at: str) -> Observation:
        """The snapshot for readers.

        Args:
            identity: The process that reports.
            started_at: Start of the process, in the form of reports.
        """
        facts = self.facts
        return Observation(
            report=self._report(identity, started_at),
            last_step=facts.last_step,
            average_loss=_finite(facts.average_loss),
            watched=facts.watched,
            first_step_time=facts.first_step_time,
            last_step_time=facts.last_step_time,
            checkpoint_time=facts.checkpoint_time,
            tallies=self.tallies,
            sources=self.sources,
            health=self.health,
        )

    def _report(self, identity: RunIdentity, started_at: str) -> ProgressReport:
        facts = self.facts
        return ProgressReport(
            run=identity.run,
            attempt=identity.attempt,
            restart=identity.restart,
            process_index=identity.process_index,
            stage=facts.stage,
            started_at=started_at,
            resumed_step=facts.resumed_step,
            first_step_at=None if facts.first_step_time is None else timestamp(facts.first_step_time),
            last_step_at=None if facts.last_step_time is None else timestamp(facts.last_step_time),
            startup_seconds=self.startup,
            seconds=self.seconds,
            time=self.time,
            progress=self._progress(),
            checkpoint=facts.checkpoint,
            fallback_reason=facts.fallback_reason,
            head_loss=facts.head_loss,
            checkpoint_error=facts.checkpoint_error,
            waiting=facts.waiting,
        )

    def _progress(self) -> Progress:
        facts = self.facts
        own: dict[str, Any] = dict(  # noqa: C408 - reads like the call that it is
            step=self.step,
            steps=self.plan.steps,
            tokens=self.plan.tokens_before(self.step),
            loss=_finite(facts.last_step.loss if facts.last_step else None),
            tokens_per_second=_finite(self.tokens_per_second),
            mfu=_finite(self._mfu),
            eta_seconds=_finite(self.eta_seconds),
            evaluation_loss=_finite(facts.evaluation_loss),
            bits_per_byte=_finite(facts.bits_per_byte),
            best_step=None if facts.best is None else facts.best.best_step,
            best_evaluation=None if facts.best is None else facts.best.best_value,
            stopped_early=facts.stopped_early or None,
            evaluated=facts.evaluated,
            tasks=facts.tasks,
            exported_step=facts.exported_step,
            save_interval_seconds=None if facts.save_interval_seconds is None else microseconds(facts.save_interval_seconds),
            attention=", ".join(facts.attention) or None,
            determinism=facts.determinism,
            plan=facts.plan,
        )
        return Progress(**(_objective_metrics(facts.last_step) | own))

    @property
    def _mfu(self) -> float | None:
        if self.tokens_per_second is None or self.plan.flops_per_token is None or not self.plan.peak_flops_per_second:
            return None
        return self.tokens_per_second * self.plan.flops_per_token / self.plan.peak_flops_per_second


def _objective_metrics(last_step: StepReport | None) -> dict[str, Any]:
    """The metrics of the objective that are fields of `Progress`; of one number for each layer, the greatest."""
    metrics = {} if last_step is None else last_step.metrics
    numbers = {name: max(value) if isinstance(value, tuple) else value for name, value in metrics.items()}
    return {name: _finite(value) for name, value in numbers.items() if name in Progress.model_fields}


def _finite(value: float | None) -> float | None:
    """None for infinity and NaN, which the report cannot express; the log has them."""
    return None if value is None or not math.isfinite(value) else float(value)
