"""Runs as the operator writes them in each phase, and what other tools must read in them."""

from __future__ import annotations

from typing import Any

from halcyon_api.status.run_status import Phase, TrainingRunStatus
from halcyon_operator.decide.tell.conditions import Description, with_description
from tests.operator import builders

KSTATUS: dict[Phase, str] = {
    "Pending": "InProgress",
    "Queued": "InProgress",
    "Starting": "InProgress",
    "Running": "Current",
    "Restarting": "InProgress",
    "Suspending": "InProgress",
    "Suspended": "Current",
    "Succeeded": "Current",
    "Failed": "Failed",
}
"""The status that kstatus must report. The operator writes Failed together with `Stalled`, see `run_in`."""
HEALTH: dict[Phase, str] = {
    "Pending": "Progressing",
    "Queued": "Progressing",
    "Starting": "Progressing",
    "Running": "Healthy",
    "Restarting": "Progressing",
    "Suspending": "Progressing",
    "Suspended": "Suspended",
    "Succeeded": "Healthy",
    "Failed": "Degraded",
}
"""The health that Argo CD must report."""


def run_in(phase: Phase, *, stalled: str = "", generation: int = 1, **spec: Any) -> dict[str, Any]:
    """A run in a phase, with the conditions that the operator wrote for generation 1."""
    reason = stalled or ("BadConfiguration" if phase == "Failed" else "")
    outlook = Description(phase, phase, f"it is {phase}", reason, "fix it" if reason else "")
    status = with_description(TrainingRunStatus(), outlook, 1, builders.at(0))
    return builders.run(status.document(), generation=generation, **spec)
