"""The command ``halcyon``."""

import os
import secrets
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from halcyon.commands import (
    checkpoints,
    data,
    dial,
    models,
    profile,
    samples,
    serve,
    show,
    speech,
    texts,
    tokenizer,
)
from halcyon.commands.errors import OneSentence, console, replace_unencodable, report_errors, report_root_errors
from halcyon.commands.eval import evaluate_tasks
from halcyon.commands.options import (
    AtLeast0,
    AtLeast1,
    Changes,
    Commands,
    Device,
    Document,
    Json,
    Overrides,
    StoreSettings,
    print_json,
    resolved,
)
from halcyon.commands.plan import plan
from halcyon.commands.prove import prove
from halcyon.commands.replay import replay
from halcyon.commands.terminal import match_terminal
from halcyon.commands.typed import typed_command
from halcyon.commands.views.tables import FittedTable
from halcyon.host.documents import is_local, local_paths
from halcyon.run.checks import document_problems
from halcyon_api.counting import counted
from halcyon_api.defaults.files import with_changes
from halcyon_api.ends import ExitCode
from halcyon_api.package import version
from halcyon_api.plain_files import user_path
from halcyon_api.printable import printable
from halcyon_api.reading import read_one
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import SLOW_SUMS, has_slow_sums
from halcyon_api.yaml_text import dump

app = Commands(
    "Train language models on preemptible accelerators as if nothing ever failed.", name="halcyon", cls=OneSentence
)

LOCAL = "On this machine"
"""Heading of the commands that need no cluster."""


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"halcyon {version()}\n")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def main(version: Version = False) -> None:
    """Train language models on preemptible accelerators as if nothing ever failed."""
    del version  # printed before any command is looked for
    match_terminal()
    replace_unencodable()


def train(
    document: Document,
    *,
    checkpoint_root: str | None = None,
    json: Annotated[bool | None, typer.Option("--json/--no-json")] = None,
    compilation_cache: Annotated[Path | None, typer.Option(envvar="HALCYON_COMPILATION_CACHE")] = None,
    changes: Changes,
    device: Device = None,
    fresh: bool = False,
    branch: str | None = None,
    from_step: AtLeast0 | None = None,
    weights_only: bool = False,
    take_over: bool = False,
    coordinator: str | None = None,
    processes: AtLeast1 | None = None,
    process: AtLeast0 | None = None,
    local_devices: str | None = None,
) -> None:
    """Train a run on this machine, on several hosts, or in a pod that the operator made.

    Resumes from its newest checkpoint if there is one.

    Args:
        checkpoint_root: Keep the checkpoints here instead of spec.checkpoint.root: a directory, or s3://BUCKET/PATH.
        json: JSON lines, or lines for people. Default: JSON unless on a terminal.
        compilation_cache: Directory of compiled programs. Default: in the user's cache.
        fresh: Begin again: the folder of the checkpoint root is renamed, not deleted.
        branch (NAME): Train the changed document as the run RUN-NAME in ROOT-NAME, from a checkpoint of the run in
            ROOT, which is only read.
        from_step: With --branch: the step of that checkpoint. Default: the newest.
        weights_only: With --branch: take only the weights, and begin at step 0.
        take_over: Stop another process of this machine that trains in the same root, after it has saved.
        coordinator (HOST:PORT): Train on several hosts, each with this command: the host of process 0, and the first of
            two free ports. srun and torchrun say it themselves.
        processes: Number of processes. Default: as srun, torchrun or an MPI says.
        process: Index of this process. Default: as srun, torchrun or an MPI says.
        local_devices (0,1): The GPUs of this process. Default: its share of the host's.
    """
    from halcyon.host.launchers import member
    from halcyon.run.branch import Branch
    from halcyon.run.process import run_training
    from halcyon_api.environment import RUN_DOCUMENT

    if branch is None and (from_step is not None or weights_only):
        raise typer.BadParameter("--from-step and --weights-only need --branch NAME")
    if branch is not None and fresh:
        raise typer.BadParameter("--fresh begins the run again, and --branch goes on from it; give one of them")

    if find_spec("jax") is None:  # a training imports it late
        raise ModuleNotFoundError(name="jax")
    if local_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = local_devices
    if RUN_DOCUMENT not in os.environ:
        with report_errors():
            if (found := member(os.environ, coordinator, processes, process)) is not None:
                from halcyon.run.on_hosts import supervise

                if fresh or branch is not None or device is not None:
                    raise typer.BadParameter("--fresh, --branch and --device are for a run on one machine")
                supervise(
                    document,
                    found,
                    compilation_cache,
                    checkpoint_root=checkpoint_root,
                    **changes.arguments,
                )
    run_training(
        document,
        os.environ,
        checkpoint_root=checkpoint_root,
        json_lines=json,
        compilation_cache=compilation_cache,
        **changes.arguments,
        on_cpu=device == "cpu",
        fresh=fresh,
        branch=None if branch is None else Branch(branch, from_step, weights_only),
        command=typed_command(without=("--take-over",)),
        takes_over=lambda sentence: take_over or _confirmed(sentence),
    )


def validate(
    document: Document,
    *,
    changes: Changes,
) -> None:
    """Check a run document, with its defaults, without a cluster or a device.

    Prints each problem; exits with 80 if there is one.
    """
    from halcyon.data.source_kinds import text_warnings

    with report_errors(document):
        run = resolved(document, changes)
    for warning in (*text_warnings(run.spec.data), *[SLOW_SUMS] * has_slow_sums(run.spec)):
        sys.stderr.write(printable(f"{document}: warning: {warning}\n"))
    problems = document_problems(run.spec, lambda note: sys.stderr.write(printable(f"{document}: note: {note}\n")))
    for problem in problems:
        sys.stderr.write(printable(f"{document}: {problem}\n"))
    if problems:
        raise typer.Exit(ExitCode.BAD_CONFIGURATION)
    topology = run.spec.accelerator.resolve()
    unchecked = not is_local(run.spec) and local_paths(run.spec)
    sys.stdout.write(
        f"{document}: {run.metadata.name} is valid: {counted(topology.slices, 'slice')} x "
        f"{counted(topology.hosts_per_slice, 'host')} x {counted(topology.devices_per_host, 'device')}, "
        f"{_task(run.spec)}{'; whether its files exist can be checked only in its pods' if unchecked else ''}\n"
    )


def resolve(document: Document, overrides: Overrides = None) -> None:
    """Print a run document with the model of the config.json that it names, for `kubectl apply`."""
    from halcyon.weights.model_file import read_model

    with report_errors(document):
        sys.stdout.write(dump(with_changes(read_one(document), document.parent, read_model, overrides or ())))


def doctor(
    place: checkpoints.RootArgument,
    *,
    settings: StoreSettings,
    as_json: Json = False,
    collectives: bool = False,
) -> None:
    """Test the operations that a checkpoint root must support. Exits with 85 if one fails.

    Args:
        collectives: Instead, measure how fast the devices of the document exchange data, and name a slow host. The same
            as `halcyon train RUN.YAML --set spec.task=measure`.
    """
    if collectives:
        train(user_path(place), json=as_json or None, changes=Changes(overrides=["spec.task=measure"]))
    from halcyon.commands.views.checkpoints import abilities_view
    from halcyon.host.storage.abilities import test_abilities

    with report_root_errors():
        store = checkpoints.root_store(place, settings)
        abilities = list(test_abilities(store, secrets.token_hex(4), time.monotonic))
        if as_json:
            print_json({"root": store.root, "abilities": [asdict(one) for one in abilities]})
        else:
            console().print(abilities_view(store.root, abilities))
    if any(ability.problem for ability in abilities):
        raise typer.Exit(ExitCode.ROOT_UNUSABLE)


def list_models(as_json: Json = False) -> None:
    """List the model families of spec.model, with the published models and the fields of each."""
    from halcyon_api.families_reference import COMMON, OTHERS, rows

    if as_json:
        print_json({"families": [asdict(row) for row in rows()], "common": COMMON})
        return
    table = FittedTable("section", "models", "what it is", "further fields")
    for row in rows():
        table.add_row(row.family, row.models, row.meaning, ", ".join(row.fields) or "none")
    shown = console()
    shown.print(table)
    shown.print(f"All but {', '.join(OTHERS)} have the fields {', '.join(COMMON)}.", highlight=False)


def _confirmed(sentence: str) -> bool:
    """Ask the user of a terminal whether to stop the process that the sentence describes; False elsewhere."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(f"{sentence}. Stop it, after it has saved, and go on here?", err=True)


_TASKS = {"data": "only builds tokens", "sample": "only samples answers", "measure": "only measures collectives"}


def _task(spec: TrainingRunSpec) -> str:
    """The task of a run, in a few words."""
    if spec.task in _TASKS:
        return _TASKS[spec.task]
    if spec.task == "evaluate" and spec.origin is not None:
        at = "" if spec.origin.step is None else f" at step {spec.origin.step}"
        return f"only evaluates run {spec.origin.run}{at}"
    if spec.task == "replay" and spec.origin is not None:
        return f"only computes steps of run {spec.origin.run} again, from step {spec.origin.step}"
    return counted(spec.trainer.steps, "step")


for name, group in {
    "checkpoints": checkpoints.app,
    "data": data.app,
    "tokenizer": tokenizer.app,
    "show": show.app,
    "import": models.import_app,
    "export": models.export_app,
}.items():
    app.add_typer(group, name=name, rich_help_panel=LOCAL)
for name, command in {
    "train": train,
    "validate": validate,
    "resolve": resolve,
    "doctor": doctor,
    "models": list_models,
    "dial": dial.print_dial,
    "plan": plan,
    "replay": replay,
    "prove": prove,
    "sample": texts.sample,
    "samples": samples.samples,
    "chat": texts.chat,
    "serve": serve.serve,
    "eval": evaluate_tasks,
    "transcribe": speech.transcribe,
}.items():
    app.command(name, rich_help_panel=LOCAL)(command)
app.command("profile-here", hidden=True)(profile.profile_here)


if __name__ == "__main__":
    app()
