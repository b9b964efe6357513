"""The command `halcyon`: what the trainer does on this machine, and what people ask of runs in a cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from halcyon.cli.main import LOCAL, Defaults, Document, app
from halcyon_cli import commands


@app.command(rich_help_panel=LOCAL)
def render(
    document: Document,
    trainer_image: Annotated[str, typer.Option(help="Image of runs that name none; in a cluster the operator's.")] = "halcyon-trainer",
    cluster_domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    defaults: Defaults = None,
) -> None:
    """Print what the operator would make of a run's first attempt: ConfigMap and JobSet, as YAML. Asks no cluster."""
    from halcyon_cli.rendering import rendered
    from halcyon_cli.telling import told

    with told():
        sys.stdout.write(rendered(document, trainer_image, cluster_domain, defaults or ()))


commands.register(app, panel="In a cluster")

if __name__ == "__main__":
    app()
