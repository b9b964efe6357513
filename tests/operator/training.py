"""Decisions about a run that trains: its trainer reports a step, and the save request that it has accepted."""

from __future__ import annotations

from typing import Any

from halcyon_api.post_requests import SaveRequestTaken
from halcyon_operator.decide.reconcile import reconcile
from tests.operator.builders import at, head, jobset, observed, pod, report


def reconcile_training(
    request: str,
    document: dict[str, Any],
    *,
    now: float = 60,
    step: int = 20,
    saved: int | None = 10,
    taken: int | None = None,
    stage: str = "training",
    reported: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """The decision.

    Args:
        request: Id of the save request.
        document: The run.
        now: Seconds after the start of the story.
        step: The step that the trainer reports.
        saved: The last committed step. None: there is no checkpoint.
        taken: The step at which the trainer accepted the request. None: it has not.
        stage: What the trainer does. In another stage than ``training`` it has done no step.
        reported: Further fields of its report.
        more: Further parts of the observation.
    """
    requests = None if taken is None else [SaveRequestTaken(id=request, step=taken)]
    trains = {} if stage == "training" else {"first": None, "resumed": None}
    progress = report(step=step, **trains, **(reported or {})).model_copy(update={"save_requests": requests})
    seen = {"jobsets": [jobset()], "pods": [pod(), pod(slice_index=1)], "report": progress, "head": head(saved), **more}
    return reconcile(observed(document, **seen), at(now))


def messages(decision: Any, reason: str) -> list[str]:
    """The messages of the decision's events with this reason."""
    return [event.message for event in decision.events if event.reason == reason]
