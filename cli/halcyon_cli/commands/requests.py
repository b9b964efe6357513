"""Commands that ask the operator, or the trainers, for something: checkpoint, profile, suspend, resume, restart and
refresh.
"""

import secrets
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from halcyon_api import names
from halcyon_api.post_requests import MAX_PROFILED_STEPS, USUAL_PROFILED_STEPS
from halcyon_api.status.run_status import AT_REST, TrainingRunStatus, parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.options import CURRENT, Cluster, Run, Wait
from halcyon_cli.output import Rejected, say
from halcyon_cli.watching import Document


def checkpoint(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    wait: Annotated[bool, typer.Option("--wait/--no-wait")] = True,
) -> None:
    """Make a run save a checkpoint now, without stopping the training.

    Args:
        wait: Wait until the checkpoint is committed.
    """
    with cluster.connected() as runs:
        _, before = _known(runs, run)
        if before.phase in AT_REST:
            saved = f"; its newest checkpoint is of step {before.checkpoint.step}" if before.checkpoint else ""
            raise Rejected(f"run {run} is {before.phase} and trains no steps, so there is nothing new to save{saved}")
        value = _request(runs, run, names.ANNOTATION_CHECKPOINT)
        if not wait:
            say(f"{run}: checkpoint requested")
            return
        if before.phase != "Running":
            say(f"{run} is {before.phase} and saves when it trains")
        say(f"{run} has saved step {saved_step(runs, run, value)}")


def profile(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    steps: Annotated[int, typer.Option(min=1, max=MAX_PROFILED_STEPS)] = USUAL_PROFILED_STEPS,
    everywhere: Annotated[bool, typer.Option("--all")] = False,
) -> None:
    """Profile the next steps of a running run. The traces are stored below `profiles/` in its checkpoint root.

    It runs a command in the pods, for which you need the right to create `pods/exec`.

    Args:
        steps: Number of steps.
        everywhere: Profile all processes. Default: one.
    """
    with cluster.connected() as runs:
        document = runs.get(run)
        pods = [pod.metadata.name for pod in runs.pods(run) if pod.status.phase == "Running"]
        if not pods:
            raise Rejected(
                f"run {run} has no running pod, so there is no step to profile; see kubectl halcyon status {run}"
            )
        port = document.get("spec", {}).get("telemetry", {}).get("port", 9400)
        command = ["halcyon", "profile-here", "--steps", str(steps), "--port", str(port)]
        for pod in pods if everywhere else pods[:1]:
            say(f"{pod}: {runs.execute(pod, command)}")
        say("then: halcyon show profile ROOT")


def suspend(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    wait: Wait = False,
) -> None:
    """Save a checkpoint, release the hardware, and stay suspended until `resume`."""
    _set_suspend(run, cluster, _suspended, AT_REST, suspend=True, wait=wait)


def resume(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    wait: Wait = False,
) -> None:
    """Continue the run from its last checkpoint."""
    _set_suspend(run, cluster, _resumed, ("Running", "Succeeded", "Failed"), suspend=False, wait=wait)


def _set_suspend(
    run: str, cluster: Cluster, effect: Callable[..., str], phases: Collection[str], *, suspend: bool, wait: bool
) -> None:
    """Suspend or resume a run.

    Args:
        run: Its name.
        cluster: Its cluster.
        effect: What it does to the run, as a sentence.
        phases: The phases in which it is done.
        suspend: Whether the run is suspended.
        wait: Whether to wait until it is done.
    """
    with cluster.connected() as runs:
        document, before = _known(runs, run)
        said = effect(run, before, asked=bool(document.get("spec", {}).get("suspend")))
        patched = runs.patch(run, {"spec": {"suspend": suspend}})
        say(said)
        if wait:
            generation = int(patched["metadata"].get("generation", 0))
            wait_for(runs, run, lambda status: status.phase in phases, generation)


def restart(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    wait: Annotated[bool, typer.Option("--wait/--no-wait")] = True,
) -> None:
    """Save a checkpoint, delete all pods, and continue with new ones.

    The operator does this, even if this command is interrupted.

    Args:
        wait: Wait until the new pods train.
    """
    with cluster.connected() as runs:
        _, before = _known(runs, run)
        if before.phase in ("Succeeded", "Suspended", "Suspending") or (before.phase, before.attempt) == ("Pending", 0):
            raise Rejected(f"run {run} is {before.phase} and has no pods to replace")
        if problem := _problem(before):
            raise Rejected(f"run {run} cannot be restarted while its document is not valid: {problem}")
        value = _request(runs, run, names.ANNOTATION_RESTART)
        say(f"{run} {'saves, and ' if before.phase == 'Running' else ''}goes on with new pods")
        if wait:
            try:
                say(f"{run} goes on as attempt {restarted(runs, run, value)}")
            except KeyboardInterrupt:
                say("the restart goes on without this command")
                raise typer.Exit(130) from None


def refresh(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    wait: Wait = False,
) -> None:
    """Make a run use its defaults as they are now. Fields that differ then have the effect of an edit."""
    with cluster.connected() as runs:
        _, before = _known(runs, run)
        if before.phase == "Succeeded":
            raise Rejected(f"run {run} is Succeeded, so its defaults have no effect any more")
        value = _request(runs, run, names.ANNOTATION_REFRESH_DEFAULTS)
        if before.phase == "Suspended":
            say(f"{run} is Suspended and reads its defaults again when it is resumed")
            return
        later = "; changes that need new pods wait for a checkpoint" if before.phase == "Running" else ""
        say(f"{run} reads its defaults again{later}")
        if not wait:
            return
        known = _problem(before)
        if known:
            say(f"it cannot use them until this is fixed: {known}")

        def taken(status: TrainingRunStatus) -> bool:
            problem = _problem(status)
            if problem and problem != known:
                raise Rejected(f"run {run} cannot use its defaults: {problem}; it retries by itself once that is fixed")
            return status.defaults is not None and status.defaults.request == value

        wait_for(runs, run, taken)


def _known(runs: Runs, run: str) -> tuple[Document, TrainingRunStatus]:
    """Return a run's document and status.

    Raises:
        Rejected: The run is being deleted, so no request has an effect; or as `Runs.get`.
    """
    document = runs.get(run)
    if document["metadata"].get("deletionTimestamp"):
        raise Rejected(f"run {run} is being deleted; its checkpoints stay in its root")
    return document, parse_status(document.get("status"))


def _suspended(run: str, status: TrainingRunStatus, *, asked: bool) -> str:
    """Return what `suspend` does to a run. It raises `Rejected` if it does nothing, now or later."""
    match status.phase:
        case "Succeeded":
            raise Rejected(f"run {run} is Succeeded, so there is nothing to suspend")
        case "Suspended" | "Suspending" if asked:
            return f"{run} is {status.phase} already"
        case "Running":
            return f"{run} saves and releases its hardware"
        case "Starting" | "Restarting":
            return f"{run} releases its hardware; it saves before if it trains by then"
        case _:
            return f"{run} is {status.phase}, so it saves nothing; it stays suspended until resume"


def _resumed(run: str, status: TrainingRunStatus, *, asked: bool) -> str:
    """Return what `resume` does to a run. It raises `Rejected` if it does nothing."""
    ready = status.condition("Ready")
    if status.phase == "Succeeded":
        raise Rejected(f"run {run} is Succeeded, so there is nothing to resume")
    if ready and ready.reason == "BudgetSpent":
        raise Rejected(f"run {run} stays Suspended: {ready.message}")
    if not asked and status.phase == "Failed":
        why = f": {ready.message}" if ready and ready.message else ""
        raise Rejected(f"run {run} is Failed, and not because of a suspension{why}")
    if not asked and status.phase not in ("Suspended", "Suspending"):
        return f"{run} is {status.phase} and is not suspended"
    return f"{run} goes on from step {status.checkpoint.step}" if status.checkpoint else f"{run} begins at step 0"


def _problem(status: TrainingRunStatus) -> str:
    """Return why a run's document is not valid together with its defaults; empty if it is valid."""
    stalled = status.condition("Stalled")
    return stalled.message if stalled and (stalled.status, stalled.reason) == ("True", "InvalidSpec") else ""


def _request(runs: Runs, run: str, annotation: str) -> str:
    """Set a request annotation to a value that it had never before, and return the value."""
    value = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}-{secrets.token_hex(4)}"
    runs.patch(run, {"metadata": {"annotations": {annotation: value}}})
    return value


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
        if request and request.value == value and request.step is not None:
            return request.step
        if found.phase in AT_REST:
            saved = f"step {found.checkpoint.step}" if found.checkpoint else "nothing"
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


def _status_changes(runs: Runs, run: str, generation: int = 0) -> Iterator[tuple[Document, TrainingRunStatus]]:
    """Yield a run and its status after every change, from an observedGeneration on; print each new phase."""
    phase = ""
    for document in runs.changes(run):
        found = parse_status(document.get("status"))
        if found.observed_generation < generation:
            continue
        if found.phase != phase:
            phase = found.phase
            ready = found.condition("Ready")
            say(phase + (f": {ready.message}" if ready and ready.message else ""))
        yield document, found
