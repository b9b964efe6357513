"""When a status is worth a write.

Tokens per second and the wall clock change at every look. A status that differs in nothing else is written at most every
`telemetry.statusIntervalSeconds`, so that a look that a pod event caused does not cost a write; one in which only the clock went on, as
while a run waits for hardware, at most every minute, and not at all while nothing happens without a person. How many pods of a start run
already is told every few seconds: a thousand that start one by one are no thousand writes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from halcyon_api.status import AT_REST, Phase, TrainingRunStatus
from halcyon_operator.model.views import Observed

_VOLATILE = ("progress", "goodput")
COUNT_SECONDS = 3.0
"""How often the words about a start are written."""
_COUNTING: frozenset[Phase] = frozenset({"Starting", "Restarting"})
"""Phases in which the next look is never far, so that the last words are written too."""
CLOCK_SECONDS = 60.0
"""How often the accounts of a run are written whose progress stands still."""


def status_to_write(observed: Observed, status: TrainingRunStatus, now: datetime) -> TrainingRunStatus | None:
    """The status if it should be written now, else None."""
    old, new = status_document(observed.run.status), status_document(status)
    if old == new and observed.run.raw_status:
        return None
    spec, written = observed.run.spec, observed.progress_written_at
    if not observed.run.raw_status or _wordless(old) != _wordless(new):
        return status
    if _steady(old) != _steady(new):
        told = written is not None and status.phase in _COUNTING and 0 <= (now - written).total_seconds() < COUNT_SECONDS
        return None if told else status
    standing = old.get("progress") == new.get("progress")
    if standing and (written is None or status.phase in AT_REST):
        return None
    if written is None:
        return status
    interval = max(CLOCK_SECONDS if standing or spec is None else spec.telemetry.status_interval_seconds, observed.pace_seconds)
    elapsed = (now - written).total_seconds()
    # A look comes a little early or late; half a second must not double the interval. And where the clock was set back, the last write lies
    # in the future: to wait until then would silence the run.
    return status if elapsed >= interval - 0.5 or elapsed < 0 else None


def is_routine(observed: Observed, status: TrainingRunStatus) -> bool:
    """Whether a status differs from the one on record in nothing but the numbers that change all the time, and in words about them."""
    return bool(observed.run.raw_status) and _wordless(status_document(observed.run.status)) == _wordless(status_document(status))


def status_document(status: TrainingRunStatus) -> dict[str, Any]:
    """The status as it is written."""
    return status.model_dump(by_alias=True, mode="json", exclude_none=True)


def _steady(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _VOLATILE}


def _wordless(document: dict[str, Any]) -> dict[str, Any]:
    """What is steady, without the messages of conditions."""
    conditions = [{key: value for key, value in condition.items() if key != "message"} for condition in document.get("conditions", [])]
    return _steady(document) | {"conditions": conditions}
