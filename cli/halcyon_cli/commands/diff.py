"""The command diff: what applying a document would change in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from halcyon.commands.errors import about_file
from halcyon_api.status.run_status import parse_status
from halcyon_cli.cluster import ClusterAccess, Runs
from halcyon_cli.commands.options import Context, Namespace, Run
from halcyon_cli.output import Rejected, reporting_errors, say


def diff(
    run: Run,
    file: Annotated[Path, typer.Option("--filename", "-f", help="The run document that would be applied.")],
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show what applying a document would change in a run, and the effect. Exits with 0 if nothing differs, 1 if
    something differs, and 2 if the comparison fails. Fields from defaults have the values that the run has recorded."""
    from halcyon.errors import TrainerExit
    from halcyon.weights.model_file import read_model
    from halcyon_api.defaults.files import with_root_prefix, with_values
    from halcyon_api.defaults.status import read_values
    from halcyon_api.model_file import with_model
    from halcyon_api.training_run import InvalidRun, parse_run, read_one
    from halcyon_cli.differing import difference, difference_view
    from halcyon_cli.roots import live_spec

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
            raise Rejected(
                f"{file} is the document of run {wanted.metadata.name}, not {run}; give the file of that run"
            )
        if live is None:
            say(f"there is no run {run} in namespace {runs.namespace}: applying creates it")
            raise typer.Exit(1)
        present = live_spec(live, values)
        objection = runs.rejection_reason(run, live | {"spec": document["spec"]}) if present != wanted.spec else ""
        found = difference(present, wanted.spec, known, objection)
        Console().print(difference_view(found))
        if found.effects or objection:
            raise typer.Exit(1)
