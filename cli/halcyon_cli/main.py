"""The command `halcyon`: the trainer's commands on this machine, and the commands about runs in a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from halcyon.commands.main import LOCAL, Defaults, Document, Overrides, app
from halcyon_cli import commands


@app.command(rich_help_panel=LOCAL)
def render(
    document: Document,
    trainer_image: Annotated[
        str, typer.Option(help="Image of a run without spec.image; in a cluster the operator sets it.")
    ] = "halcyon-trainer",
    cluster_domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    defaults: Defaults = None,
    overrides: Overrides = None,
    matrix: Annotated[
        Path | None,
        typer.Option(metavar="SWEEP.YAML", help="Print a TrainingRun for each variant of this sweep instead."),
    ] = None,
) -> None:
    """Print the objects that the operator would create for a run's first attempt: ConfigMap and JobSet, as YAML.

    Needs no cluster.
    """
    from halcyon_cli.output import reporting_errors
    from halcyon_cli.rendering import rendered, rendered_matrix

    with reporting_errors():
        if matrix is not None:
            sys.stdout.write(rendered_matrix(document, matrix, defaults or (), overrides or ()))
        else:
            sys.stdout.write(rendered(document, trainer_image, cluster_domain, defaults or (), overrides or ()))


commands.register(app, panel="In a cluster")

if __name__ == "__main__":
    app()
