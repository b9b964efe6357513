"""When a status is written.

Tokens per second and the wall clock change at every reconcile. A status with no other difference is written at most
every `telemetry.statusIntervalSeconds`, so that a reconcile after a pod event causes no write. A status in which only
the clock advances, for example while a run waits for hardware, is written at most every minute, and not at all while a
run waits for a user. The number of started pods is written every few seconds, so that a thousand pods that start one by
one do not cause a thousand writes."""

from typing import Any

from halcyon_api.status.run_status import AT_REST, Phase, TrainingRunStatus
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import Observed

_VOLATILE = ("progress", "goodput", "spent")
COUNT_SECONDS = 3.0
"""Seconds between two writes of the message about a start."""
_COUNTING: frozenset[Phase] = frozenset({"Starting", "Restarting"})
"""Phases in which the next reconcile is always soon, so that the last message is written too."""
CLOCK_SECONDS = 60.0
"""Seconds between two writes of the goodput while progress does not change."""


def status_to_write(observed: Observed, status: TrainingRunStatus) -> TrainingRunStatus | None:
    """The status if it is to be written now, else None."""
    old, new = status_document(observed.run.status), status_document(status)
    if old == new and observed.run.raw_status:
        return None
    spec, spent = observed.run.spec, observed.run.status.spent
    # A restarted operator does not remember its writes.
    written = observed.progress_written_at or (spent and moment(spent.counted_until))
    if not observed.run.raw_status or _without_messages(old) != _without_messages(new):
        return status
    if _without_numbers(old) != _without_numbers(new):
        too_soon = (
            written is not None
            and status.phase in _COUNTING
            and 0 <= (observed.now - written).total_seconds() < COUNT_SECONDS
        )
        return None if too_soon else status
    standing = old.get("progress") == new.get("progress")
    if standing and (written is None or status.phase in AT_REST):
        return None
    if written is None:
        return status
    interval = max(
        CLOCK_SECONDS if standing or spec is None else spec.telemetry.status_interval_seconds, observed.pace_seconds
    )
    elapsed = (observed.now - written).total_seconds()
    # A reconcile may come up to half a second early, which must not double the interval. If the clock was set back, the
    # last write is in the future, and waiting until then would stop all writes.
    return status if elapsed >= interval - 0.5 or elapsed < 0 else None


def is_routine(observed: Observed, status: TrainingRunStatus) -> bool:
    """Whether a status differs from the recorded one only in progress, goodput and messages."""
    return bool(observed.run.raw_status) and _without_messages(
        status_document(observed.run.status)
    ) == _without_messages(status_document(status))


def status_document(status: TrainingRunStatus) -> dict[str, Any]:
    """The status as a document."""
    return status.model_dump(by_alias=True, mode="json", exclude_none=True)


def _without_numbers(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _VOLATILE}


def _without_messages(document: dict[str, Any]) -> dict[str, Any]:
    """The status without volatile numbers and without the messages of conditions."""
    conditions = [
        {key: value for key, value in condition.items() if key != "message"}
        for condition in document.get("conditions", [])
    ]
    return _without_numbers(document) | {"conditions": conditions}
