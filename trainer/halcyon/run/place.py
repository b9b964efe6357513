"""The place of a process in a run that computes on devices: which run, with which processes, and where it reports."""

from __future__ import annotations

from dataclasses import dataclass, replace

from halcyon.checkpoint.origin import OtherRun, origin_store
from halcyon.parallel.process_group import ProcessGroup
from halcyon.run.context import Context, with_spec
from halcyon.storage.retry_budget import RetryBudget
from halcyon.storage.store import Store
from halcyon.telemetry import RunReporter
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.training_run import TrainingRunSpec


@dataclass(frozen=True)
class Place:
    """What every part of a task needs to know of its run and its processes."""

    context: Context
    processes: ProcessGroup
    reporter: RunReporter
    retry_budget: RetryBudget | None = None
    """The waits for stores that deny access while the run starts."""

    @property
    def spec(self) -> TrainingRunSpec:
        """The run's spec."""
        return self.context.run.spec

    def with_spec(self, spec: TrainingRunSpec) -> Place:
        """The same place in the run with another spec."""
        return replace(self, context=with_spec(self.context, spec))

    def root(self) -> Store:
        """The run's own checkpoint root."""
        return Store(self.spec.checkpoint, retry_budget=self.retry_budget)

    def other_run(self, origin: OriginSpec) -> OtherRun:
        """The run that ``spec.from`` names.

        Raises:
            BadConfiguration: ``spec.from.root`` is not set.
        """
        store = origin_store(origin, self.spec.checkpoint, self.retry_budget)
        return OtherRun(origin, store, self.context.owner, self.processes)
