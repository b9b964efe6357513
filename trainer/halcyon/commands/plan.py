"""The command ``halcyon plan``: whether a run fits, how fast its steps are, what it costs and when it ends, before it
has a device."""

from __future__ import annotations

import datetime as dt
import json as json_format
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halcyon.commands.errors import console, report_errors
from halcyon.commands.options import Changes, Document, valid_training
from halcyon.commands.terminal import each_minute
from halcyon.host.errors import BadConfiguration
from halcyon_api.ends import ExitCode
from halcyon_api.places import rows_of
from halcyon_api.yaml_text import dump

if TYPE_CHECKING:
    from halcyon.commands.planning.search import Tried
    from halcyon_api.training_run import TrainingRun

_MINUTES = 10.0


def plan(
    document: Document,
    *,
    changes: Changes,
    assume: list[str] | None = None,
    search: bool = False,
    topologies: bool = False,
    minutes: Annotated[float, typer.Option(min=0.1)] = _MINUTES,
    write: Path | None = None,
    details: bool = False,
    assumptions: bool = False,
    json: bool = False,
    report: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Show whether a run fits on its devices, how long a step takes and why, what a run costs, and when it ends.

    Compiles the step of the largest batch for the accelerators that the document names; they need not be there. This
    needs the extra `cuda` or `tpu`. Without it, the step is compiled for virtual devices of this machine's processor,
    whose compiler orders and fuses operations in another way: memory is an upper bound, times are rough, and kernels
    are missing. Each number says whether it was compiled, and for what, computed or assumed. If the document has other
    rows of hardware (`place`), a table compares them. Ends with 80 if the step does not fit.

    Args:
        assume (NAME=VALUE): Another value of an assumption; `--assumptions` lists them.
        search: Try other meshes, microbatches and remat policies, and rank them.
        topologies: Rank the hardware that the model fits on, by time and by money.
        minutes: Time for --search and --topologies; what was not tried then is said.
        write: With --search: write the document with the best mesh into this file.
        details: Show kernels, matrix products, loops and collectives too.
        assumptions: List what is assumed, and end.
        json: Print the plan as JSON.
        report: Write what the operator shows of the plan into this file.
    """
    from halcyon.commands.planning.assumptions import meanings, with_values

    if write is not None and not search:
        raise typer.BadParameter("--write writes the best mesh, so it needs --search")

    if assumptions:
        for name, meaning in meanings().items():
            sys.stdout.write(f"{name}: {meaning}\n")
        return
    doing = ["as the document says"]
    with report_errors(document), each_minute(lambda: f"still compiling: {doing[-1]}"):
        assumed = with_values(assume or ())
        run = valid_training(document, changes)
        if assumed.price is None:
            assumed = replace(assumed, price=run.spec.accelerator.price_per_chip_hour)
        from halcyon.commands.planning import page
        from halcyon.commands.planning.compiled import compiled
        from halcyon.commands.planning.estimate import estimate

        if search or topologies:
            from halcyon.commands.planning import search as searching

            def candidates(fits: bool) -> Iterable[searching.Changes]:
                return searching.mesh_candidates(run, fits) if search else searching.hardware_candidates(run)

            tried = searching.tried(
                searching.Source(document, _options(changes, assume)),
                candidates,
                seconds=60 * minutes,
                by_money=topologies,
                doing=doing.append,
            )
            if write is not None:
                write_best(tried, run, write)
            if json:
                sys.stdout.write(f"{json_format.dumps([row.document() for row in tried.rows])}\n")
            else:
                _print(page.ranking(tried))
            return
        now, found = dt.datetime.now(dt.UTC), compiled(run.spec, assumed, doing.append)
        numbers = estimate(found.plan, found.run, found.rates, assumed, now)
        if report is not None:
            from halcyon.commands.planning.report import report_of

            report.write_text(report_of(numbers, found.note).model_dump_json(by_alias=True, exclude_none=True))
        if json:
            whole = {"plan": numbers.document(), "program": found.plan.document(), "note": found.note or None}
            sys.stdout.write(f"{json_format.dumps(whole)}\n")
        else:
            _print(page.plan_page(found.plan, numbers, found.run, found.note, details=details))
            if others := rows_of(run.spec)[1:]:
                from halcyon.commands.planning import search as searching

                source = searching.Source(document, _options(changes, assume))
                plans = [searching.planned(source, searching.row_changes(row), 60 * minutes) for row in others]
                rows = [searching.Row({}, {"plan": numbers.document()}), *(row for row in plans if row is not None)]
                left = 1 + len(others) - len(rows)
                _print(page.ranking(searching.Tried(searching.ranked(rows, by_money=True), left)))
    if numbers.missing_bytes:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)


def _options(changes: Changes, assume: list[str] | None) -> tuple[str, ...]:
    """The options for the plan of a candidate."""
    given = {"--defaults": changes.defaults, "--set": changes.overrides, "--assume": assume}
    return tuple(f"{option}={value}" for option, values in given.items() for value in values or ())


def _print(parts: Iterable[Any]) -> None:
    screen = console()
    for part in parts:
        screen.print(part, highlight=False, markup=False)


def write_best(tried: Tried, run: TrainingRun, path: Path) -> None:
    """Write the document with the changes of the best candidate.

    Raises:
        BadConfiguration: None fits.
    """
    from halcyon.commands.planning.search import changed

    best = tried.best
    found = None if best is None else changed(run, best.changes)
    if found is None:
        raise BadConfiguration("--write: no candidate fits, so nothing is written")
    path.write_text(dump(found.document()), encoding="utf-8")
