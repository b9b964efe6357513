"""The command `halcyon`: the trainer's commands on this machine, and the commands about runs in a cluster."""

import sys
from pathlib import Path

import typer

from halcyon.commands.main import LOCAL, app
from halcyon.commands.options import NO_CHANGES, AtLeast1, Changes, Device, Document
from halcyon_api.ends import ExitCode
from halcyon_cli import commands
from halcyon_cli.commands.configurations import import_config
from halcyon_cli.commands.hosts import launch, slurm


@app.command(rich_help_panel=LOCAL)
def render(
    document: Document,
    trainer_image: str = "halcyon-trainer",
    cluster_domain: str = "cluster.local",
    changes: Changes = NO_CHANGES,
    matrix: Path | None = None,
) -> None:
    """Print the objects that the operator would create for a run's first attempt: ConfigMap and JobSet, as YAML.

    Needs no cluster.

    Args:
        trainer_image: Image of a run without spec.image; in a cluster the operator sets it.
        cluster_domain: DNS domain of the cluster.
        matrix (SWEEP.YAML): Print a TrainingRun for each member of this sweep instead.
    """
    from halcyon_cli.output import reporting_errors
    from halcyon_cli.rendering import rendered, rendered_matrix

    with reporting_errors(ExitCode.BAD_CONFIGURATION):
        if matrix is not None:
            sys.stdout.write(rendered_matrix(document, matrix, **changes.arguments))
        else:
            sys.stdout.write(rendered(document, trainer_image, cluster_domain, **changes.arguments))


@app.command(rich_help_panel=LOCAL)
def sweep(
    document: Document,
    variants: Path,
    at_once: AtLeast1 = 1,
    stop_on_failure: bool = False,
    checkpoint_root: str | None = None,
    changes: Changes = NO_CHANGES,
    device: Device = None,
) -> None:
    """Train the members of a sweep on this machine, and print a table of their losses with the best one.

    Call it again to go on: complete members are not trained again. Exits with 1 unless all members are complete.

    Args:
        variants (SWEEP.YAML): The sweep: a grid, random values or a list.
        at_once: Number of members that train at the same time.
        stop_on_failure: If a member fails, the others save and end.
        checkpoint_root: Keep the members' checkpoints below this place instead of spec.checkpoint.root.
    """
    from halcyon_cli.output import reporting_errors
    from halcyon_cli.sweeping import train_sweep

    words = () if device is None else ("--device", device)
    with reporting_errors(ExitCode.BAD_CONFIGURATION):
        complete = train_sweep(
            document, variants, checkpoint_root=checkpoint_root, **changes.arguments,
            at_once=at_once, stop_on_failure=stop_on_failure, words=words,
        )  # fmt: skip
    raise typer.Exit(0 if complete else 1)


for command in (import_config, slurm, launch):
    app.command(rich_help_panel=LOCAL)(command)
commands.register(app, panel="In a cluster", local=LOCAL)

if __name__ == "__main__":
    app()
