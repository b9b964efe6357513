"""When a status is worth a write.

Tokens per second and the wall clock change at every look. A status that differs in nothing else is written at most every
`telemetry.statusIntervalSeconds`, so that a look that a pod event caused does not cost a write; one in which only the clock went on, as
while a run waits for hardware, at most every minute, and not at all while nothing happens without a person.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from halcyon_api.status import AT_REST, TrainingRunStatus
from halcyon_operator.views import Observed

_VOLATILE = ("progress", "goodput")
CLOCK_SECONDS = 60.0
"""How often the accounts of a run are written whose progress stands still."""


def settle(observed: Observed, status: TrainingRunStatus, now: datetime) -> TrainingRunStatus | None:
    """The status if it should be written now, else None."""
    old, new = status_document(observed.run.status), status_document(status)
    if old == new and observed.run.raw_status:
        return None
    if _steady(old) != _steady(new) or not observed.run.raw_status:
        return status
    spec, written = observed.run.spec, observed.progress_written_at
    standing = old.get("progress") == new.get("progress")
    if standing and (written is None or status.phase in AT_REST):
        return None
    if written is None:
        return status
    interval = max(CLOCK_SECONDS if standing or spec is None else spec.telemetry.status_interval_seconds, observed.pace_seconds)
    # A look comes a little early or late; half a second must not double the interval.
    return status if (now - written).total_seconds() >= interval - 0.5 else None


def is_routine(observed: Observed, status: TrainingRunStatus) -> bool:
    """Whether a status differs from the one on record in nothing but the numbers that change all the time."""
    return bool(observed.run.raw_status) and _steady(status_document(observed.run.status)) == _steady(status_document(status))


def status_document(status: TrainingRunStatus) -> dict[str, Any]:
    """The status as it is written."""
    return status.model_dump(by_alias=True, mode="json", exclude_none=True)


def _steady(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _VOLATILE}
