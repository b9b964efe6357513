"""The command ``halcyon``."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.commands.chat import chat
from halcyon.commands.checkpoints import app as checkpoints_app
from halcyon.commands.checkpoints import doctor
from halcyon.commands.data import app as data_app
from halcyon.commands.dial import dial
from halcyon.commands.errors import about_file, replace_unencodable, report_errors
from halcyon.commands.eval import evaluate_tasks
from halcyon.commands.models import export_app, import_app
from halcyon.commands.options import Defaults, Document, Overrides
from halcyon.commands.profile import profile_here
from halcyon.commands.sample import sample
from halcyon.commands.samples import samples
from halcyon.commands.serve import serve
from halcyon.commands.show import app as show_app
from halcyon.commands.tokenizer import app as tokenizer_app
from halcyon.commands.usage import OneSentence
from halcyon_api.counting import counted

if TYPE_CHECKING:
    from halcyon_api.training_run import TrainingRunSpec
    from halcyon_api.validation import Problem


class Device(StrEnum):
    """Devices that can replace the accelerator of the document."""

    CPU = "cpu"


app = typer.Typer(
    name="halcyon",
    cls=OneSentence,
    help="Train language models on preemptible accelerators as if nothing ever failed.",
    no_args_is_help=True,
    add_completion=False,
)

LOCAL = "On this machine"
"""Heading of the commands that need no cluster."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from halcyon_api.package import version

        sys.stdout.write(f"halcyon {version()}\n")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def main(version: Version = False) -> None:
    """Train language models on preemptible accelerators as if nothing ever failed."""
    del version  # printed before any command is looked for
    replace_unencodable()


@app.command(rich_help_panel=LOCAL)
def train(
    document: Document,
    checkpoint_root: Annotated[
        str | None,
        typer.Option(
            help="Keep the checkpoints here instead of spec.checkpoint.root: a directory, or s3://BUCKET/PATH."
        ),
    ] = None,
    json: Annotated[
        bool | None,
        typer.Option(
            "--json/--no-json", help="JSON lines or a live progress line. Default: JSON unless on a terminal."
        ),
    ] = None,
    compilation_cache: Annotated[
        Path | None,
        typer.Option(
            envvar="HALCYON_COMPILATION_CACHE", help="Directory of compiled programs. Default: in the user's cache."
        ),
    ] = None,
    defaults: Defaults = None,
    overrides: Overrides = None,
    device: Annotated[
        Device | None,
        typer.Option(help="cpu: train on the processor. Default: the accelerator that the document names."),
    ] = None,
) -> None:
    """Train a run on this machine, or in a pod that the operator made.

    Resumes from its newest checkpoint if there is one.
    """
    from halcyon.run.process import run_training

    if find_spec("jax") is None:  # a training imports it late
        raise ModuleNotFoundError(name="jax")
    run_training(
        document,
        os.environ,
        checkpoint_root=checkpoint_root,
        json_lines=json,
        compilation_cache=compilation_cache,
        defaults=tuple(defaults or ()),
        overrides=tuple(overrides or ()),
        on_cpu=device is Device.CPU,
    )


@app.command(rich_help_panel=LOCAL)
def validate(document: Document, defaults: Defaults = None, overrides: Overrides = None) -> None:
    """Check a run document, with its defaults, without a cluster or a device.

    Prints each problem; exits with 80 if there is one.
    """
    from halcyon.data.source_kinds import text_warnings
    from halcyon.host.documents import is_local, missing_files
    from halcyon.weights.model_file import read_model
    from halcyon_api.defaults.files import load_resolved
    from halcyon_api.ends import ExitCode
    from halcyon_api.training_run import InvalidRun
    from halcyon_api.validation import find_problems

    try:
        with report_errors(document):
            run = load_resolved(document, defaults or (), read_model=read_model, overrides=overrides or ())
    except InvalidRun as error:
        sys.stderr.write(f"{about_file(document, str(error))}\n")
        raise typer.Exit(ExitCode.BAD_CONFIGURATION) from None
    for warning in text_warnings(run.spec.data):
        sys.stderr.write(f"{document}: warning: {warning}\n")
    problems = find_problems(run.spec) or (
        *missing_files(run.spec),
        *_memory_problems(run.spec),
        *_adapter_problems(run.spec),
        *_group_problems(run.spec),
    )
    if not problems:
        from halcyon.weights.check_formats import check_formats

        problems, notes = check_formats(run.spec)
        for note in notes:
            sys.stderr.write(f"{document}: note: {note}\n")
    for problem in problems:
        sys.stderr.write(f"{document}: {problem}\n")
    if problems:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    topology = run.spec.accelerator.resolve()
    sys.stdout.write(
        f"{document}: {run.metadata.name} is valid: {counted(topology.slices, 'slice')} x "
        f"{counted(topology.hosts_per_slice, 'host')} x "
        f"{counted(topology.devices_per_host, 'device')}, "
        f"{_task(run.spec)}{'' if is_local(run.spec) else _elsewhere(run.spec)}\n"
    )


@app.command(rich_help_panel=LOCAL)
def resolve(document: Document) -> None:
    """Print a run document with the model of the config.json that it names, for `kubectl apply`."""
    from halcyon.weights.model_file import read_model
    from halcyon_api.ends import ExitCode
    from halcyon_api.model_file import with_model
    from halcyon_api.training_run import InvalidRun, read_one
    from halcyon_api.yaml_text import dump

    try:
        with report_errors(document):
            sys.stdout.write(dump(with_model(read_one(document), document.parent, read_model)))
    except InvalidRun as error:
        sys.stderr.write(f"{about_file(document, str(error))}\n")
        raise typer.Exit(ExitCode.BAD_CONFIGURATION) from None


@app.command(rich_help_panel=LOCAL)
def models() -> None:
    """List the model families of spec.model, with the published models and the fields of each, and those that are left
    out.
    """
    from rich.table import Table

    from halcyon.commands.errors import console
    from halcyon_api.families_reference import COMMON, LEFT_OUT, rows

    table = Table("section", "models", "what it is", "further fields")
    for row in rows():
        table.add_row(row.section, row.models, row.meaning, ", ".join(row.fields) or "none")
    shown = console()
    shown.print(table)
    shown.print(f"All but llama, gpt2, nanochat and custom have the fields {', '.join(COMMON)}.", highlight=False)
    left_out = Table("left out", "why")
    for name, why in LEFT_OUT:
        left_out.add_row(name, why)
    shown.print(left_out)


def _adapter_problems(spec: TrainingRunSpec) -> tuple[Problem, ...]:
    """The patterns of an adapter must match parameters of the model."""
    from halcyon.errors import BadConfiguration
    from halcyon_api.validation import Problem

    if spec.lora is None:
        return ()
    from halcyon.models.adapters import check_adapter

    try:
        check_adapter(spec.model, spec.lora)
    except BadConfiguration as error:
        return (Problem("spec.adapter.lora", str(error)),)
    return ()


def _group_problems(spec: TrainingRunSpec) -> tuple[Problem, ...]:
    """The groups of the optimizer must have parameters, and none may be in two groups."""
    from halcyon.errors import BadConfiguration
    from halcyon_api.validation import Problem

    if not spec.optimizer.groups or _adapter_problems(spec):
        return ()
    from halcyon.optim.groups import check_groups

    try:
        check_groups(spec.model, spec.optimizer, spec.lora)
    except BadConfiguration as error:
        return (Problem("spec.optimizer.groups", str(error)),)
    return ()


def _memory_problems(spec: TrainingRunSpec) -> list[Problem]:
    """The problem, if a run on this machine's processor does not fit into its memory; else nothing."""
    from halcyon.host.documents import is_local
    from halcyon.host.memory import machine_memory
    from halcyon_api.memory import memory_problem
    from halcyon_api.mesh import run_mesh
    from halcyon_api.validation import Problem

    there = machine_memory()
    if not is_local(spec) or spec.accelerator.type != "cpu" or there is None:
        return []
    found = memory_problem(
        spec, run_mesh(spec), there, devices=spec.accelerator.resolve().devices, where="this machine"
    )
    return [Problem(*found)] if found is not None else []


def _task(spec: TrainingRunSpec) -> str:
    """The task of a run, in a few words."""
    if spec.task == "data":
        return "only builds tokens"
    if spec.task == "evaluate" and spec.origin is not None:
        return f"only evaluates run {spec.origin.run}" + (
            f" at step {spec.origin.step}" if spec.origin.step is not None else ""
        )
    return counted(spec.trainer.steps, "step")


def _elsewhere(spec: TrainingRunSpec) -> str:
    """The end of a sentence: what this machine cannot check of a run for a cluster."""
    from halcyon.host.documents import local_paths

    return "; whether its files exist can be checked only in its pods" if local_paths(spec) else ""


app.add_typer(checkpoints_app, name="checkpoints", rich_help_panel=LOCAL)
app.add_typer(data_app, name="data", rich_help_panel=LOCAL)
app.add_typer(tokenizer_app, name="tokenizer", rich_help_panel=LOCAL)
app.add_typer(show_app, name="show", rich_help_panel=LOCAL)
app.add_typer(import_app, name="import", rich_help_panel=LOCAL)
app.add_typer(export_app, name="export", rich_help_panel=LOCAL)
app.command(rich_help_panel=LOCAL)(dial)
app.command(rich_help_panel=LOCAL)(sample)
app.command(rich_help_panel=LOCAL)(samples)
app.command(rich_help_panel=LOCAL)(chat)
app.command(rich_help_panel=LOCAL)(serve)
app.command("eval", rich_help_panel=LOCAL)(evaluate_tasks)
app.command(rich_help_panel=LOCAL)(doctor)
app.command("profile-here", hidden=True)(profile_here)


if __name__ == "__main__":
    app()
