"""The command `halcyon`: the trainer's commands on this machine, and the commands about runs in a cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from halcyon.cli.main import LOCAL, Defaults, Document, app
from halcyon_cli import commands


@app.command(rich_help_panel=LOCAL)
def render(
    document: Document,
    trainer_image: Annotated[
        str, typer.Option(help="Image of a run without spec.image; in a cluster the operator sets it.")
    ] = "halcyon-trainer",
    cluster_domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    defaults: Defaults = None,
) -> None:
    """Print the objects that the operator would create for a run's first attempt: ConfigMap and JobSet, as YAML. Needs no cluster."""
    from halcyon_cli.errors import reporting_errors
    from halcyon_cli.rendering import rendered

    with reporting_errors():
        sys.stdout.write(rendered(document, trainer_image, cluster_domain, defaults or ()))


commands.register(app, panel="In a cluster")

if __name__ == "__main__":
    app()
