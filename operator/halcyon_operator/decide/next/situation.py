"""The situation of a run when its next step is chosen, and the cases of the tables that choose it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from halcyon_api.status.placement import PlacementStatus
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.recovery import STICKY_REASONS
from halcyon_operator.decide.next.steps import Step
from halcyon_operator.decide.record.completion import lengthened
from halcyon_operator.decide.record.placement import placement_of
from halcyon_operator.decide.record.spec_hash import fits
from halcyon_operator.model.views import JobSetView, Observed


@dataclass(frozen=True)
class Situation:
    """All that the next step depends on."""

    observed: Observed
    status: TrainingRunStatus
    """The run's status, updated from its JobSet and its checkpoints."""
    spec: TrainingRunSpec
    """The run's valid spec."""
    jobset: JobSetView | None
    """The JobSet of the recorded attempt, if it exists and belongs to the run."""
    wanted_hash: str
    """Hash of the state of the spec that an attempt should be created from."""
    now: datetime
    retry: bool = False
    """Whether the spec was edited in a way that may remove the reason why the run has stopped."""

    @property
    def placement(self) -> PlacementStatus:
        """The recorded placement; if there is none, that of the attempt's topology."""
        return placement_of(self.status, self.spec)

    @property
    def lengthened(self) -> bool:
        """Whether the spec has more steps than the run was done with."""
        return lengthened(self.status, self.spec)

    @property
    def stopped(self) -> bool:
        """Whether the run has stopped until an edit or a requested restart may fix it."""
        condition = self.status.condition("Stalled")
        return condition is not None and condition.status == "True" and condition.reason in STICKY_REASONS

    @property
    def released(self) -> bool:
        """Whether a user has done what may fix a run that has stopped."""
        return self.stopped and (self.retry or self.status.restart_waits)

    @property
    def edited(self) -> bool:
        """Whether the present attempt was created from another state of the spec."""
        return not fits(self.status.attempt_spec_hash, self.wanted_hash)

    @property
    def renewed(self) -> bool:
        """Whether an edit or a requested restart waits for a new attempt."""
        return self.edited or self.status.restart_waits


@dataclass(frozen=True)
class Case:
    """A row of a table: the first case that gives a step decides. The reference shows the rows in the same order."""

    when: str
    """The case, in a few words."""
    then: str
    """What the operator does."""
    step: Callable[[Situation], Step | None]
    """The step; None if the case is another one."""


def first_step(cases: Iterable[Case], situation: Situation) -> Step | None:
    """The step of the first case that gives one."""
    return next((step for case in cases if (step := case.step(situation)) is not None), None)
