"""Commands that show runs as they are: status, logs and diff."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType

from halcyon.commands.errors import console
from halcyon_api.printable import printable
from halcyon_api.status.run_status import parse_status
from halcyon_cli import roots
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.options import CURRENT, Cluster, Output, OutputFormat, Run
from halcyon_cli.output import Rejected, reading, reporting_errors, say, write_json
from halcyon_cli.watching import Document

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store

_ENDED = ("Succeeded", "Failed")
_WATCH_SECONDS = 5.0
"""Time between two reads of a root that is watched."""


def status(
    run: roots.Place,
    *,
    cluster: Cluster = CURRENT,
    watch: Annotated[bool, typer.Option("--watch", "-w")] = False,
    output: Output = None,
    settings: roots.RootSettings = roots.USUAL,
) -> None:
    """Show the state of a run: phase and reason, progress, losses, checkpoints, hosts, and where its time went.

    Args:
        watch: Update the view until the run ends.
    """
    from rich.live import Live

    with reporting_errors():
        if roots.is_root(run):
            _status_of_root(run, settings, watch=watch, output=output)
            return
        runs = roots.cluster_of(run, cluster)
        if output is not None:
            for document in runs.changes(run) if watch else (runs.get(run),):
                write_json(_summary(document), one_line=watch)
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


def _status_of_root(place: str, settings: roots.RootSettings, *, watch: bool, output: OutputFormat | None) -> None:
    from rich.live import Live

    store = roots.store_of_root(place, settings)
    if output is not None:
        write_json(_document_in(store))
        return
    view, ended = _view_in(store)
    if not watch:
        console().print(view)
        return
    with Live(view, console=Console(), auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while not ended:
            time.sleep(_WATCH_SECONDS)
            view, ended = _view_in(store)
            live.update(view, refresh=True)


def _document_in(store: Store) -> Document:
    """What a root says about its run: the status if a manager keeps one there, else the history."""
    from halcyon_cli import history_report

    if managed := roots.managed_in(store):
        return _summary(managed)
    history = roots.history_in(store)
    found = history_report.document(history)
    found["damages"] = found.pop("history")["damages"]
    return {"run": history.run, "state": history_report.state(history, time.time()), **found}


def _view_in(store: Store) -> tuple[RenderableType, bool]:
    """The view of the run in a root, and whether it has ended."""
    from halcyon_cli.history_view import status_view
    from halcyon_cli.status_view import run_view

    if not (managed := roots.managed_in(store)):
        history = roots.history_in(store)
        return status_view(history, time.time()), bool(history.groups[-1].ended)
    found = parse_status(managed.get("status"))
    view = run_view(managed["metadata"]["name"], found, None, (), roots.losses_in(store), datetime.now(UTC))
    return view, found.phase in _ENDED


def logs(
    run: Run,
    *,
    cluster: Cluster = CURRENT,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    raw: Annotated[bool, typer.Option()] = False,
) -> None:
    """Show the logs of all processes of a run together, sorted by time.

    Args:
        follow: Follow the logs until the run ends.
        raw: Print the lines as the trainers wrote them.
    """
    from halcyon_cli.following import follow_run, read_run, shown

    console = Console(soft_wrap=True)
    with cluster.connected() as runs, contextlib.suppress(KeyboardInterrupt):
        runs.get(run)  # fails if there is no such run
        for line in follow_run(runs, run) if follow else read_run(runs, run):
            if raw:
                sys.stdout.write(f"{printable(line.text) if sys.stdout.isatty() else line.text}\n")
            else:
                console.print(shown(line))


def _view(runs: Runs, run: str, document: Document) -> tuple[RenderableType, bool]:
    """Return the view of a run, and whether the run has ended."""
    from halcyon_cli.following import hosts_of, last_losses
    from halcyon_cli.status_view import run_view

    found = parse_status(document.get("status"))
    pods = runs.pods(run)
    now = datetime.now(UTC)
    steps = document["spec"].get("trainer", {}).get("steps")
    view = run_view(run, found, steps, hosts_of(pods, now), last_losses(runs, pods), now)
    return view, found.phase in _ENDED


def _summary(run: Document) -> Document:
    """Return a run as a JSON value: namespace, name, and the status as the API server stores it."""
    metadata = run["metadata"]
    return {"namespace": metadata.get("namespace", ""), "name": metadata["name"], "status": run.get("status") or {}}


def diff(
    run: Run,
    file: Annotated[Path, typer.Option("--filename", "-f")],
    *,
    cluster: Cluster = CURRENT,
) -> None:
    """Show what applying a document would change in a run, and the effect. Exits with 0 if nothing differs, 1 if
    something differs, and 2 if the comparison fails. Fields from defaults have the values that the run has recorded.

    Args:
        file: The run document that would be applied.
    """
    from halcyon.weights.model_file import read_model
    from halcyon_api.defaults.files import with_root_prefix, with_values
    from halcyon_api.defaults.status import read_values
    from halcyon_api.model_file import with_model
    from halcyon_api.reading import parse_run, read_one
    from halcyon_cli.differing import difference, difference_view

    with cluster.connected(failure_code=2) as runs:
        live = runs.find(run)
        known = parse_status(live and live.get("status"))
        values = read_values(known.defaults)
        with reading(file):
            document = with_model(read_one(file), file.parent, read_model)
            if known.attempt == 0:
                # The run has recorded no defaults yet, so both documents get the same placeholders.
                values = with_root_prefix(values, [document, live], "file:///not-known-yet")
            wanted = parse_run(with_values(document, values, runs.namespace))
        if wanted.metadata.name != run:
            raise Rejected(
                f"{file} is the document of run {wanted.metadata.name}, not {run}; give the file of that run"
            )
        if live is None:
            say(f"there is no run {run} in namespace {runs.namespace}: applying creates it")
            raise typer.Exit(1)
        present = roots.live_spec(live, values)
        objection = runs.rejection_reason(run, live | {"spec": document["spec"]}) if present != wanted.spec else ""
        found = difference(present, wanted.spec, known, objection or "")
        console().print(difference_view(found))
        if objection is None:
            say("the API server and its policies were not asked, because you may not update the run")
        if found.effects or objection:
            raise typer.Exit(1)
