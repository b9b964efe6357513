"""The command ``halcyon``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from halcyon.checkpoint_cli import app as checkpoints_app
from halcyon.checkpoint_cli import doctor
from halcyon.data.cli import app as data_app
from halcyon.tokenizer.cli import app as tokenizer_app

app = typer.Typer(
    help="Train language models on preemptible accelerators as if nothing ever failed.", no_args_is_help=True, add_completion=False
)

app.add_typer(checkpoints_app, name="checkpoints")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.command()(doctor)

Defaults = Annotated[
    list[Path] | None,
    typer.Option(help="File with TrainingRunDefaults that fill in what the run lacks; may be repeated, the most specific first."),
]
Document = Annotated[Path, typer.Argument(help="The TrainingRun document, such as run.yaml.", metavar="RUN.YAML")]


@app.command()
def train(
    document: Document,
    checkpoint_root: Annotated[
        str | None, typer.Option(help="Keep the checkpoints here instead of spec.checkpoint.root, such as file:///tmp/run.")
    ] = None,
    json: Annotated[
        bool | None, typer.Option("--json/--no-json", help="Write JSON lines, or a live progress line. Default: by the terminal.")
    ] = None,
    compilation_cache: Annotated[
        Path | None, typer.Option(envvar="HALCYON_COMPILATION_CACHE", help="Directory of compiled programs. Default: the user's cache.")
    ] = None,
    defaults: Defaults = None,
) -> None:
    """Train a run on this machine, or in the pod that the operator made; go on from its newest checkpoint if there is one."""
    from halcyon.process import run_training

    run_training(
        document,
        os.environ,
        checkpoint_root=checkpoint_root,
        json_lines=json,
        compilation_cache=compilation_cache,
        defaults=tuple(defaults or ()),
    )


@app.command()
def validate(document: Document, defaults: Defaults = None) -> None:
    """Check a run document, with its defaults, without a cluster or a device; say what is wrong, and exit with 80."""
    from halcyon_api.defaults.files import load_resolved
    from halcyon_api.exit_codes import ExitCode
    from halcyon_api.training_run import InvalidRun
    from halcyon_api.validation import find_problems

    try:
        run = load_resolved(document, defaults or ())
    except InvalidRun as error:
        sys.stderr.write(f"{document}: {error}\n")
        raise typer.Exit(ExitCode.BAD_CONFIGURATION) from None
    problems = find_problems(run.spec)
    for problem in problems:
        sys.stderr.write(f"{document}: {problem}\n")
    if problems:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    topology = run.spec.accelerator.resolve()
    sys.stdout.write(
        f"{document}: {run.metadata.name} is sound: {topology.slices} slices x {topology.hosts_per_slice} hosts x "
        f"{topology.devices_per_host} devices, {run.spec.trainer.steps} steps\n"
    )


if __name__ == "__main__":
    app()
