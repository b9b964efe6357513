"""The commands about runs in a cluster, shared by `halcyon` and `kubectl halcyon`."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from halcyon.cli.errors import about_file, console
from halcyon_api import names
from halcyon_api.profile_requests import MAX_PROFILED_STEPS, USUAL_PROFILED_STEPS
from halcyon_api.status import AT_REST, TrainingRunStatus, parse_status
from halcyon_api.yaml_text import InvalidYaml, read_document
from halcyon_cli.cluster import ClusterAccess, Runs
from halcyon_cli.errors import Rejected, reporting_errors
from halcyon_cli.report import Report, read_report
from halcyon_cli.roots import Endpoint, Place, Region, history_of_root, is_root

if TYPE_CHECKING:
    from halcyon.history.reading import History

Run = Annotated[str, typer.Argument(help="Name of the TrainingRun.", metavar="RUN")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the run. Default: the kubeconfig's.")]
Wait = Annotated[bool, typer.Option(help="Wait until it is done.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: the current one.")]


class Form(StrEnum):
    """Output formats besides the table."""

    JSON = "json"


Output = Annotated[Form | None, typer.Option("--output", "-o", help="json: for programs. Default: as a table.")]
_ENDED = ("Succeeded", "Failed")
_WATCH_SECONDS = 5.0
"""Time between two reads of a root that is watched."""


def report(
    run: Place,
    namespace: Namespace = None,
    context: Context = None,
    file: Annotated[
        Path | None, typer.Option(help="Read the run from this YAML or JSON file (- for standard input) instead of the cluster.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Write a picture to this SVG file: the time line of a RUN, the curves of a ROOT.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="With a ROOT: write the whole report, with curves and time line, to this file.")] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="With a ROOT: write the numbers of the steps to this file (- for standard output).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Show where the time of a run went: seconds by cause, its process groups, and a time line. With a ROOT, its losses too.

    The checkpoint root of a run holds its whole history, during the run and years later; no cluster is needed to read it."""
    with reporting_errors():
        if file is None and is_root(run):
            _report_root(history_of_root(run, endpoint, region), svg, html, table, as_json=as_json)
            return
        if html is not None or table is not None:
            raise Rejected(f"--html and --csv need the checkpoint root of run {run}: halcyon report ROOT")
        document = Runs(ClusterAccess(context, namespace)).get(run) if file is None else _read(file, run)
        found = read_report(run, parse_status(document.get("status")))
        if found is None:
            raise Rejected(f"run {run} has not started yet, so there is nothing to report")
        if as_json:
            sys.stdout.write(json.dumps(_document(found), indent=2) + "\n")
        else:
            from halcyon_cli.tables import report_view

            console().print(report_view(found))
        if svg is not None:
            from halcyon_cli.timeline import draw

            _write(draw(found), svg, "--svg")


def _report_root(history: History, svg: Path | None, html: Path | None, table: Path | None, *, as_json: bool) -> None:
    from halcyon_cli import history_report
    from halcyon_cli.history_view import history_view

    now = time.time()
    if as_json:
        sys.stdout.write(json.dumps(_document(history_report.report_of(history, now)) | history_report.document(history), indent=2) + "\n")
    elif str(table) != "-":
        console().print(history_view(history, now))
    if svg is not None:
        from halcyon_cli.curves import draw_curves

        _write(draw_curves([history]), svg, "--svg")
    if html is not None:
        from halcyon_cli.page import page

        _write(page(history, now), html, "--html")
    if str(table) == "-":
        sys.stdout.write(history_report.table(history))
    elif table is not None:
        _write(history_report.table(history), table, "--csv")


def compare(
    roots: Annotated[
        list[str], typer.Argument(help="Checkpoint roots of runs, or the run documents that name them.", metavar="ROOT|RUN.YAML...")
    ],
    svg: Annotated[Path | None, typer.Option(help="Write the curves of all runs in one picture to this SVG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports of all runs as a JSON list.")] = False,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Compare runs by the histories in their checkpoint roots: losses at the same step, speed, goodput, and all curves in one picture."""
    from halcyon_cli import history_report
    from halcyon_cli.history_view import comparison_view

    now = time.time()
    with reporting_errors():
        histories = [history_of_root(root, endpoint, region) for root in roots]
        if as_json:
            _write_json([_document(history_report.report_of(one, now)) | history_report.document(one) for one in histories])
        else:
            console().print(comparison_view(histories, now))
        if svg is not None:
            from halcyon_cli.curves import draw_curves

            _write(draw_curves(histories), svg, "--svg")


def status(
    run: Place,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update the view until the run ends.")] = False,
    output: Output = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Show the state of a run: phase and reason, progress, losses, checkpoints, hosts, and where its time went."""
    from rich.live import Live

    with reporting_errors():
        if is_root(run):
            _status_of_root(run, endpoint, region, watch=watch, output=output)
            return
        runs = Runs(ClusterAccess(context, namespace))
        if output is not None:
            for document in runs.changes(run) if watch else (runs.get(run),):
                _write_json(_summary(document), one_line=watch)
                if not watch or parse_status(document.get("status")).phase in _ENDED:
                    return
        if not watch:
            console().print(_view(runs, run, runs.get(run))[0])
            return
        with Live(console=Console(), auto_refresh=False) as live:
            for document in runs.changes(run):
                view, ended = _view(runs, run, document)
                live.update(view, refresh=True)
                if ended:
                    return


def _status_of_root(place: str, endpoint: str | None, region: str | None, *, watch: bool, output: Form | None) -> None:
    from rich.live import Live

    from halcyon_cli import history_report
    from halcyon_cli.history_view import status_view

    history = history_of_root(place, endpoint, region)
    if output is not None:
        found = history_report.document(history)
        del found["history"]
        _write_json({"run": history.run, "state": history_report.state(history, time.time()), **found})
    elif not watch:
        console().print(status_view(history, time.time()))
    else:
        with Live(status_view(history, time.time()), console=Console(), auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
            while not history.groups[-1].ended:
                time.sleep(_WATCH_SECONDS)
                history = history_of_root(place, endpoint, region)
                live.update(status_view(history, time.time()), refresh=True)


def top(
    namespace: Namespace = None,
    context: Context = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="The runs of all namespaces.")] = False,
    output: Output = None,
) -> None:
    """Show all runs, one line each."""
    from halcyon_cli.status_view import fleet_view

    with reporting_errors():
        found = Runs(ClusterAccess(context, namespace)).list(everywhere=everywhere)
        if output is not None:
            _write_json([_summary(run) for run in found])
            return
        rows = [(run["metadata"].get("namespace", ""), run["metadata"]["name"], parse_status(run.get("status"))) for run in found]
        console().print(fleet_view(rows, datetime.now(UTC)))


def logs(
    run: Run,
    namespace: Namespace = None,
    context: Context = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the logs until the run ends.")] = False,
    raw: Annotated[bool, typer.Option(help="Print the lines as the trainers wrote them.")] = False,
) -> None:
    """Show the logs of all processes of a run together, sorted by time."""
    from halcyon_cli.following import follow_run, read_run
    from halcyon_cli.log_lines import shown

    console = Console(soft_wrap=True)
    with reporting_errors(), contextlib.suppress(KeyboardInterrupt):
        runs = Runs(ClusterAccess(context, namespace))
        runs.get(run)  # fails if there is no such run
        for line in follow_run(runs, run) if follow else read_run(runs, run):
            if raw:
                sys.stdout.write(f"{line.text}\n")
            else:
                console.print(shown(line))


def checkpoint(
    run: Run,
    namespace: Namespace = None,
    context: Context = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the checkpoint is committed.")] = True,
) -> None:
    """Make a run save a checkpoint now, without stopping the training."""
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        before = parse_status(runs.get(run).get("status"))
        if before.phase in AT_REST:
            saved = f"; its newest checkpoint is of step {before.checkpoint.step}" if before.checkpoint is not None else ""
            raise Rejected(f"run {run} is {before.phase} and trains no steps, so there is nothing new to save{saved}")
        value = _new_value()
        runs.patch(run, {"metadata": {"annotations": {names.ANNOTATION_CHECKPOINT: value}}})
        if not wait:
            _say(f"{run}: checkpoint requested")
            return
        step = _saved_step(runs, run, value)
        _say(f"{run} has saved step {step}")


def profile(
    run: Run,
    namespace: Namespace = None,
    context: Context = None,
    steps: Annotated[int, typer.Option(min=1, max=MAX_PROFILED_STEPS, help="Number of steps.")] = USUAL_PROFILED_STEPS,
    everywhere: Annotated[bool, typer.Option("--all", help="Profile all processes. Default: one.")] = False,
) -> None:
    """Profile the next steps of a running run. The traces are stored below `profiles/` in its checkpoint root.

    It runs a command in the pods, for which you need the right to create `pods/exec`.
    """
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        document = runs.get(run)
        pods = [pod.metadata.name for pod in runs.pods(run) if pod.status.phase == "Running"]
        if not pods:
            raise Rejected(f"run {run} has no running pod, so there is no step to profile; see kubectl halcyon status {run}")
        port = document.get("spec", {}).get("telemetry", {}).get("port", 9400)
        command = ["halcyon", "profile-here", "--steps", str(steps), "--port", str(port)]
        for pod in pods if everywhere else pods[:1]:
            _say(f"{pod}: {runs.execute(pod, command)}")
        _say("then: halcyon show profile ROOT")


def diff(
    run: Run,
    file: Annotated[Path, typer.Option("--filename", "-f", help="The run document that would be applied.")],
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show what applying a document would change in a run, and the effect. Exits with 0 if nothing differs, 1 if something differs, and 2
    if the comparison fails. Fields from defaults have the values that the run has recorded."""
    from halcyon.errors import TrainerExit
    from halcyon.huggingface.model_file import read_model
    from halcyon_api.defaults.files import with_root_prefix, with_values
    from halcyon_api.defaults.status import read_values
    from halcyon_api.model_file import with_model
    from halcyon_api.training_run import InvalidRun, parse_run, read_one
    from halcyon_cli.differing import difference
    from halcyon_cli.differing_view import difference_view

    with reporting_errors(2):
        runs = Runs(ClusterAccess(context, namespace))
        live = runs.find(run)
        known = parse_status(live.get("status") if live is not None else None)
        values = read_values(known.defaults)
        try:
            document = with_model(read_one(file), file.parent, read_model)
            if known.attempt == 0:
                # The run has recorded no defaults yet, so both documents get the same placeholders.
                values = with_root_prefix(values, [document, live], "file:///not-known-yet")
            wanted = parse_run(with_values(document, values, runs.namespace))
        except (InvalidRun, TrainerExit) as error:
            raise Rejected(about_file(file, str(error))) from None
        if wanted.metadata.name != run:
            raise Rejected(f"{file} is the document of run {wanted.metadata.name}, not {run}; give the file of that run")
        if live is None:
            _say(f"there is no run {run} in namespace {runs.namespace}: applying creates it")
            raise typer.Exit(1)
        try:
            present = parse_run(with_values({key: live[key] for key in ("apiVersion", "kind", "metadata", "spec")}, values)).spec
        except InvalidRun as error:
            raise Rejected(f"this version cannot read run {run} in the cluster: {error}") from None
        objection = runs.rejection_reason(run, live | {"spec": document["spec"]}) if present != wanted.spec else ""
        found = difference(present, wanted.spec, known, objection)
        Console().print(difference_view(found))
        if found.effects or objection:
            raise typer.Exit(1)


def suspend(run: Run, namespace: Namespace = None, context: Context = None, wait: Wait = False) -> None:
    """Save a checkpoint, release the hardware, and stay suspended until `resume`."""
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        patched = runs.patch(run, {"spec": {"suspend": True}})
        _say(f"{run} saves and releases its hardware")
        if wait:
            _wait_for(runs, run, lambda status: status.phase in AT_REST, _generation(patched))


def resume(run: Run, namespace: Namespace = None, context: Context = None, wait: Wait = False) -> None:
    """Continue the run from its last checkpoint."""
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        patched = runs.patch(run, {"spec": {"suspend": False}})
        _say(f"{run} goes on from its last checkpoint")
        if wait:
            _wait_for(runs, run, lambda status: status.phase in ("Running", "Succeeded", "Failed"), _generation(patched))


def restart(
    run: Run,
    namespace: Namespace = None,
    context: Context = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the new pods train.")] = True,
) -> None:
    """Save a checkpoint, delete all pods, and continue with new ones. The operator does this, even if this command is interrupted."""
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        before = parse_status(runs.get(run).get("status"))
        if before.phase in ("Succeeded", "Suspended"):
            raise Rejected(f"run {run} is {before.phase} and has no pods to replace")
        if problem := _problem(before):
            raise Rejected(f"run {run} cannot be restarted while its document is not valid: {problem}")
        value = _new_value()
        runs.patch(run, {"metadata": {"annotations": {names.ANNOTATION_RESTART: value}}})
        _say(f"{run} saves, and goes on with new pods")
        if wait:
            try:
                _say(f"{run} goes on as attempt {_restarted(runs, run, value)}")
            except KeyboardInterrupt:
                _say("the restart goes on without this command")
                raise typer.Exit(130) from None


def refresh(run: Run, namespace: Namespace = None, context: Context = None, wait: Wait = False) -> None:
    """Make a run use its defaults as they are now. Fields that differ then have the effect of an edit."""
    with reporting_errors():
        runs = Runs(ClusterAccess(context, namespace))
        before = parse_status(runs.get(run).get("status"))
        if before.phase == "Succeeded":
            raise Rejected(f"run {run} is Succeeded, so its defaults have no effect any more")
        value = _new_value()
        runs.patch(run, {"metadata": {"annotations": {names.ANNOTATION_REFRESH_DEFAULTS: value}}})
        if before.phase == "Suspended":
            _say(f"{run} is Suspended and reads its defaults again when it is resumed")
            return
        _say(f"{run} reads its defaults again; changes that need new pods wait for a checkpoint")
        if not wait:
            return
        known = _problem(before)
        if known:
            _say(f"it cannot use them until this is fixed: {known}")

        def taken(status: TrainingRunStatus) -> bool:
            problem = _problem(status)
            if problem and problem != known:
                raise Rejected(f"run {run} cannot use its defaults: {problem}; it retries by itself once that is fixed")
            return status.defaults is not None and status.defaults.request == value

        _wait_for(runs, run, taken)


def register(app: typer.Typer, panel: str | None = None) -> None:
    """Add the commands to an application, under the heading `panel` of its help."""
    for command in (status, top, logs, report, compare, diff, checkpoint, profile, suspend, resume, restart, refresh):
        app.command(rich_help_panel=panel)(command)


def _view(runs: Runs, run: str, document: dict[str, Any]) -> tuple[RenderableType, bool]:
    """Return the view of a run, and whether the run has ended."""
    from halcyon_cli.following import hosts_of, last_losses
    from halcyon_cli.status_view import run_view

    found = parse_status(document.get("status"))
    pods = runs.pods(run)
    now = datetime.now(UTC)
    steps = document["spec"].get("trainer", {}).get("steps")
    view = run_view(run, found, steps, hosts_of(pods, now), last_losses(runs, pods), now)
    return view, found.phase in _ENDED


def _summary(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run as a JSON value: namespace, name, and the status as the API server stores it."""
    metadata = run["metadata"]
    return {"namespace": metadata.get("namespace", ""), "name": metadata["name"], "status": run.get("status") or {}}


def _write_json(value: Any, *, one_line: bool = False) -> None:
    sys.stdout.write(json.dumps(value, indent=None if one_line else 2) + "\n")
    sys.stdout.flush()


def _problem(status: TrainingRunStatus) -> str:
    """Return why a run's document is not valid together with its defaults; empty if it is valid."""
    stalled = status.condition("Stalled")
    return stalled.message if stalled is not None and (stalled.status, stalled.reason) == ("True", "InvalidSpec") else ""


def _saved_step(runs: Runs, run: str, value: str) -> int:
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
            raise Rejected(f"run {run} became {found.phase} before it saved the requested checkpoint; its newest checkpoint holds {saved}")
    raise AssertionError("changes have no end")


def _generation(document: dict[str, Any]) -> int:
    return int(document["metadata"].get("generation", 0))


def _wait_for(runs: Runs, run: str, done: Callable[[TrainingRunStatus], bool], generation: int = 0) -> None:
    """Wait until `done` is true for a status with at least this observedGeneration; an older status describes the run before the edit."""
    for _, found in _status_changes(runs, run, generation):
        if done(found):
            return


def _restarted(runs: Runs, run: str, value: str) -> int:
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
            _say(f"{phase}" + (f": {ready.message}" if ready is not None and ready.message else ""))
        yield document, found


def _new_value() -> str:
    """Return a value that no annotation had before."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}-{secrets.token_hex(4)}"


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def _read(file: Path, run: str) -> dict[str, Any]:
    """Read a run from a file with the run, or with a list that contains it, as `kubectl get --output yaml` prints it."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        document = read_document(text)
    except OSError as error:
        raise Rejected(f"{file}: {error.strerror}; give a file with the output of `kubectl get trainingrun {run} --output yaml`") from None
    except (InvalidYaml, UnicodeDecodeError):
        raise Rejected(f"{file}: not YAML and not JSON") from None
    items = document.get("items", [document]) if isinstance(document, dict) else []
    for item in items:
        if isinstance(item, dict) and isinstance(metadata := item.get("metadata"), dict) and metadata.get("name") == run:
            return item
    raise Rejected(f"{file} holds no run with the name {run}")


def _document(report: Report) -> dict[str, Any]:
    return {
        "run": report.run,
        "phase": report.phase,
        "startedAt": report.started_at,
        "wallSeconds": report.wall_seconds,
        "suspendedSeconds": report.suspended_seconds,
        "ratio": report.ratio,
        "restarts": report.restarts,
        "lostSteps": report.lost_steps,
        "seconds": report.seconds.document(),
        "processGroups": [
            {
                "name": group.name,
                "beginsSeconds": round(group.begins_seconds, 3),
                "fromStep": group.from_step,
                "toStep": group.to_step,
                "ended": group.ended or None,
                "seconds": group.seconds.document(),
            }
            for group in report.groups
        ],
    }


def _write(text: str, path: Path, option: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Rejected(f"{path} cannot be written: {error.strerror}; give {option} another path") from None
