"""Reads the runs that another run waits for (`spec.after`, `spec.from`)."""

from __future__ import annotations

from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_operator.model.untrusted import text, value_at
from halcyon_operator.model.views import Prerequisite

LONGEST_CHAIN = 16
"""Maximum number of runs that are read for one run. The runs of the chain check their own prerequisites."""


def parse_prerequisite(name: str, document: object) -> Prerequisite:
    """The view of a run that another run waits for; the document is None if no run has this name."""
    if document is None:
        return Prerequisite(name)
    status = parse_status(value_at(document, "status"))
    waits = status.phase != "Succeeded" and status.attempt == 0
    return Prerequisite(
        name, status.phase, _message(status), text(value_at(document, "spec", "after", "run")) if waits else ""
    )


def _message(status: TrainingRunStatus) -> str:
    ready = status.condition("Ready")
    return ready.message if ready is not None else ""
