"""The command `halcyon`: the trainer's commands on this machine, and the commands about runs in a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from halcyon.commands.main import LOCAL, app
from halcyon.commands.options import Defaults, Device, Document, Overrides
from halcyon_api.ends import ExitCode
from halcyon_cli import commands
from halcyon_cli.commands.configurations import import_config
from halcyon_cli.commands.hosts import launch, slurm


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
        typer.Option(metavar="SWEEP.YAML", help="Print a TrainingRun for each member of this sweep instead."),
    ] = None,
) -> None:
    """Print the objects that the operator would create for a run's first attempt: ConfigMap and JobSet, as YAML.

    Needs no cluster.
    """
    from halcyon_cli.output import reporting_errors
    from halcyon_cli.rendering import rendered, rendered_matrix

    with reporting_errors(ExitCode.BAD_CONFIGURATION):
        if matrix is not None:
            sys.stdout.write(rendered_matrix(document, matrix, defaults or (), overrides or ()))
        else:
            sys.stdout.write(rendered(document, trainer_image, cluster_domain, defaults or (), overrides or ()))


@app.command(rich_help_panel=LOCAL)
def sweep(
    document: Document,
    variants: Annotated[Path, typer.Argument(help="The sweep: a grid, random values or a list.", metavar="SWEEP.YAML")],
    at_once: Annotated[int, typer.Option(min=1, help="Number of members that train at the same time.")] = 1,
    stop_on_failure: Annotated[
        bool, typer.Option("--stop-on-failure", help="If a member fails, the others save and end.")
    ] = False,
    checkpoint_root: Annotated[
        str | None,
        typer.Option(help="Keep the members' checkpoints below this place instead of spec.checkpoint.root."),
    ] = None,
    defaults: Defaults = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Train the members of a sweep on this machine, and print a table of their losses with the best one.

    Call it again to go on: complete members are not trained again. Exits with 1 unless all members are complete.
    """
    from halcyon_cli.output import reporting_errors
    from halcyon_cli.sweeping import train_sweep

    words = () if device is None else ("--device", device)
    with reporting_errors(ExitCode.BAD_CONFIGURATION):
        complete = train_sweep(
            document, variants, defaults or (), overrides or (), checkpoint_root,
            at_once=at_once, stop_on_failure=stop_on_failure, words=words,
        )  # fmt: skip
    raise typer.Exit(0 if complete else 1)


for command in (import_config, slurm, launch):
    app.command(rich_help_panel=LOCAL)(command)
commands.register(app, panel="In a cluster", local=LOCAL)

if __name__ == "__main__":
    app()
