"""Waits until a run has done what a command asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from halcyon_api import names
from halcyon_api.status.run_status import AT_REST, TrainingRunStatus, parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.output import say
from halcyon_cli.errors import Rejected


def wait_for(runs: Runs, run: str, done: Callable[[TrainingRunStatus], bool], generation: int = 0) -> None:
    """Wait until `done` is true for a status with at least this observedGeneration; an older status describes the run
    before the edit.
    """
    for _, found in _status_changes(runs, run, generation):
        if done(found):
            return


def saved_step(runs: Runs, run: str, value: str) -> int:
    """Wait until the checkpoint for a request is committed, and return its step.

    Raises:
        Rejected: The run came to rest before.
    """
    for document in runs.changes(run):
        found = parse_status(document.get("status"))
        request = found.save_request
        if request is not None and request.value == value and request.step is not None:
            return request.step
        if found.phase in AT_REST:
            saved = f"step {found.checkpoint.step}" if found.checkpoint is not None else "nothing"
            raise Rejected(
                f"run {run} became {found.phase} before it saved the requested checkpoint; its newest checkpoint holds "
                f"{saved}"
            )
    raise AssertionError("changes have no end")


def restarted(runs: Runs, run: str, value: str) -> int:
    """Wait until the attempt that a restart led to trains or is at rest, and return its number."""
    for document, found in _status_changes(runs, run):
        known = found.restart
        annotations = document["metadata"].get("annotations") or {}
        # A later request replaces the value of a waiting one: one restart serves both.
        if known is None or known.waits or known.value not in (value, annotations.get(names.ANNOTATION_RESTART)):
            continue
        if known.outcome == "passedOver":
            raise Rejected(f"run {run} is {found.phase} and has no pods to replace")
        if found.phase in ("Running", *AT_REST):
            return found.attempt
    raise AssertionError("changes have no end")


def _status_changes(runs: Runs, run: str, generation: int = 0) -> Iterator[tuple[dict[str, Any], TrainingRunStatus]]:
    """Yield a run and its status after every change, from an observedGeneration on; print each new phase."""
    phase = ""
    for document in runs.changes(run):
        found = parse_status(document.get("status"))
        if found.observed_generation < generation:
            continue
        if found.phase != phase:
            phase = found.phase
            ready = found.condition("Ready")
            say(f"{phase}" + (f": {ready.message}" if ready is not None and ready.message else ""))
        yield document, found
