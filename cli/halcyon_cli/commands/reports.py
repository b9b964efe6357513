"""Commands about the history of runs: report and compare."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from halcyon.commands.errors import console
from halcyon.commands.options import Json
from halcyon_api.counting import counted
from halcyon_api.status.run_status import parse_status
from halcyon_cli import roots
from halcyon_cli.commands.options import CURRENT, Cluster
from halcyon_cli.output import Rejected, reporting_errors, say, write_file, write_json
from halcyon_cli.report import Report, read_report

if TYPE_CHECKING:
    from halcyon.host.storage.store import Store


def report(
    runs: roots.Places,
    *,
    cluster: Cluster = CURRENT,
    svg: Path | None = None,
    html: Path | None = None,
    table: Annotated[Path | None, typer.Option("--csv")] = None,
    as_json: Json = False,
    chain: bool = False,
    markdown: Path | None = None,
    price: Annotated[float | None, typer.Option(min=0)] = None,
    settings: roots.RootSettings = roots.USUAL,
) -> None:
    """Show where the time of a run went: seconds by cause, its process groups, and a time line. With a ROOT, its losses
    too.

    The checkpoint root of a run holds its whole history, during the run and years later; no cluster is needed to read
    it. With --chain: the report card of a chain of runs, from the first to the one whose ROOT is given.

    Args:
        svg: Write a picture to this SVG file: the time line of a RUN, the curves of a ROOT.
        html: With a ROOT: write the whole report, with curves and time line, to this file.
        table: With a ROOT: write the numbers of the steps to this file (- for standard output).
        chain: Report on the chain of runs that ends with this ROOT, or with each of several.
        markdown: With --chain: write the report to this Markdown file.
        price: With --chain: price of a chip hour. Default: accelerator.pricePerChipHour of each run.
    """
    with reporting_errors():
        if chain:
            if svg is not None or table is not None:
                raise Rejected("--svg and --csv are for one run; with --chain, give --html, --markdown or --json")
            _report_chain(runs, html, markdown, price, settings, as_json=as_json)
            return
        if len(runs) > 1 or markdown is not None or price is not None:
            raise Rejected("several runs, --markdown and --price need --chain; `halcyon compare` compares runs")
        (run,) = runs
        if roots.is_root(run):
            _report_root(roots.store_of_root(run, settings), svg, html, table, as_json=as_json)
            return
        if html is not None or table is not None:
            raise Rejected(f"--html and --csv need the checkpoint root of run {run}: halcyon report ROOT")
        document = roots.cluster_of(run, cluster).get(run)
        found = read_report(run, parse_status(document.get("status")))
        if found is None:
            raise Rejected(f"run {run} has not started yet, so there is nothing to report")
        if as_json:
            write_json(_document(found))
        else:
            from halcyon_cli.status_view import report_view

            console().print(report_view(found))
        if svg is not None:
            from halcyon_cli.report import draw

            write_file(draw(found), svg, "--svg")


def _report_root(store: Store, svg: Path | None, html: Path | None, table: Path | None, *, as_json: bool) -> None:
    from halcyon_cli import history_report
    from halcyon_cli.history_view import history_view

    now, history, managed = time.time(), roots.history_in(store), roots.managed_in(store)
    own = read_report(history.run, parse_status(managed["status"])) if managed else None
    found = own or history_report.report_of(history, now)
    if as_json:
        write_json(_document(found) | history_report.document(history))
    elif str(table) != "-":
        console().print(history_view(history, found))
    if svg is not None:
        from halcyon_cli.curves import draw_curves

        write_file(draw_curves([history]), svg, "--svg")
    if html is not None:
        from halcyon_cli.page import page

        write_file(page(history, now), html, "--html")
    if str(table) == "-":
        sys.stdout.write(history_report.table(history))
    elif table is not None:
        write_file(history_report.table(history), table, "--csv")


def _report_chain(
    places: Sequence[str],
    html: Path | None,
    markdown: Path | None,
    price: float | None,
    settings: roots.RootSettings,
    *,
    as_json: bool,
) -> None:
    from halcyon.commands.checkpoints import root_store
    from halcyon.commands.errors import report_root_errors
    from halcyon_cli.chain.card import card as card_of
    from halcyon_cli.chain.reading import read_chain
    from halcyon_cli.chain.writing import as_html, as_markdown, json_document

    with report_root_errors():
        found = read_chain(
            [root_store(one, settings) for one in places],
            lambda root: root_store(root, settings),
        )
    card = card_of(found, price, time.time())
    if as_json:
        write_json(json_document(found, price))
    elif html is None and markdown is None:
        sys.stdout.write(as_markdown(card))
    for path, option, written in ((markdown, "--markdown", as_markdown), (html, "--html", as_html)):
        if path is not None:
            write_file(written(card), path, option)
            if not as_json:
                say(f"{path}: the report card of {counted(len(found.stages), 'stage')}")


def compare(
    places: roots.Places,
    *,
    cluster: Cluster = CURRENT,
    svg: Path | None = None,
    as_json: Json = False,
    settings: roots.RootSettings = roots.USUAL,
) -> None:
    """Compare runs by their checkpoint roots: losses at the same step, speed, goodput, the fields of their documents
    that differ, and all curves in one picture.

    A name is that of a run in the cluster, which has the address of its root. If this is an address inside the cluster,
    give --endpoint.

    Args:
        svg: Write the curves of all runs in one picture to this SVG file.
        as_json: Print the reports of all runs as a JSON list.
    """
    from halcyon_cli import history_report
    from halcyon_cli.differing_runs import differing_fields, documents_view
    from halcyon_cli.history_view import comparison_view

    now = time.time()
    with reporting_errors():
        names = [place for place in places if not roots.is_root(place)]
        runs = roots.cluster_of(names[0], cluster) if names else None
        stores = [
            roots.store_of_run(runs, place, settings)
            if runs is not None and place in names
            else roots.store_of_root(place, settings)
            for place in places
        ]
        histories = [roots.history_in(store) for store in stores]
        sections = [roots.sections_in(store) for store in stores]
        if as_json:
            documents: list[dict[str, Any]] = [
                _document(history_report.report_of(one, now)) | history_report.document(one) | {"differs": None}
                for one in histories
            ]
            known = [index for index, one in enumerate(sections) if one]
            fields = differing_fields([sections[index] for index in known])
            for column, index in enumerate(known if len(known) > 1 else ()):
                documents[index]["differs"] = {path: values[column] for path, values in fields.items()}
            write_json(documents)
        else:
            console().print(comparison_view(histories, now))
            for part in documents_view(history_report.labels(histories), sections) if len(stores) > 1 else ():
                console().print(part, soft_wrap=isinstance(part, Text))
        if svg is not None:
            from halcyon_cli.curves import draw_curves

            write_file(draw_curves(histories), svg, "--svg")


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
