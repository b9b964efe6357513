"""The document of ``/status``, made from the state of a process."""

from __future__ import annotations

from typing import Any

from halcyon.telemetry.clock import microseconds, timestamp
from halcyon.telemetry.event_fields import finite
from halcyon.telemetry.state import State
from halcyon_api.status.progress import Progress, ProgressReport


def progress_report(state: State) -> ProgressReport:
    """The document of ``/status``, except for the requests for a checkpoint."""
    identity = state.identity
    return ProgressReport(
        run=identity.run,
        attempt=identity.attempt,
        restart=identity.restart,
        process_index=identity.process_index,
        stage=state.stage,
        started_at=timestamp(state.began_time),
        resumed_step=state.resumed_step,
        first_step_at=None if state.first_step_time is None else timestamp(state.first_step_time),
        last_step_at=None if state.last_step_time is None else timestamp(state.last_step_time),
        startup_seconds=state.startup_seconds,
        seconds=state.seconds,
        time=timestamp(state.now_time),
        progress=_progress(state),
        checkpoint=state.checkpoint,
        fallback_reason=state.fallback_reason,
        head_loss=state.head_loss,
        checkpoint_error=state.checkpoint_error,
        waiting=state.waiting,
    )


def _progress(state: State) -> Progress:
    """Each field has the value of the state's field of its name; the others are metrics of the objective."""
    found: dict[str, Any] = {}
    for name in Progress.model_fields:
        value = getattr(state, name) if hasattr(state, name) else state.metric(name)
        if isinstance(value, float):
            value = finite(microseconds(value) if name.endswith("_seconds") else value)
        found[name] = value
    return Progress(**found)
