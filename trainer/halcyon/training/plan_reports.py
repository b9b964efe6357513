"""Reports the plans of compiled steps. To read a large program takes a part of a second, so nothing is read before the first step."""

from __future__ import annotations

import threading

import jax

from halcyon.telemetry import RunReporter
from halcyon.training.choices import memory_of
from halcyon.training.plan import event_fields, plan_of
from halcyon.training.program import Program
from halcyon_api.training_run import TrainingRunSpec


class PlanReports:
    """Reports one plan for each compiled step. For any thread.

    Args:
        program: The program of the run.
        spec: The run's spec, without automatic values.
        reporter: Receives the plans. Only process 0 should report.
    """

    def __init__(self, program: Program, spec: TrainingRunSpec, reporter: RunReporter) -> None:
        self._program, self._spec, self._reporter = program, spec, reporter
        self._waiting: list[tuple[jax.stages.Compiled, int, int]] | None = []
        self._lock = threading.Lock()

    def compiled(self, step: jax.stages.Compiled, batch_size: int, sequence_length: int) -> None:
        """Report the plan of a step now, or with `start`, whichever is later."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append((step, batch_size, sequence_length))
                return
        self._report(step, batch_size, sequence_length)

    def start(self) -> None:
        """Report the plans of all steps compiled so far. Call it after the first step."""
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            self._report(*one)

    def _report(self, step: jax.stages.Compiled, batch_size: int, sequence_length: int) -> None:
        remat, memory_bytes = self._spec.trainer.remat, memory_of(self._spec)
        try:
            plan = plan_of(self._program, step, batch_size, sequence_length, remat=remat, memory_bytes=memory_bytes)
        except (KeyError, ValueError) as error:  # another XLA may write its programs in another way
            self._reporter.warning(f"the plan of the step could not be read from its program: {error!r}")
            return
        self._reporter.planned(plan.sentence(), event_fields(plan))
