"""The command ``halcyon show``: what a run would do, without a device.

``halcyon show run.yaml`` prints the summary of a run from its shapes alone. ``halcyon show optimizer run.yaml`` prints
the update of every parameter.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from halcyon.commands.dial import show_dial
from halcyon.commands.errors import console, report_errors, report_root_errors
from halcyon.commands.options import Defaults, Document, Endpoint, Json, Overrides, Region, valid_training
from halcyon.commands.planning.vocabulary import vocabulary_of
from halcyon.commands.profile import profile_view
from halcyon.commands.show_schedule import schedule
from halcyon.host.errors import BadConfiguration
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec

if TYPE_CHECKING:
    from halcyon.step.program import Program


class _OrRun(TyperGroup):
    """A group of commands in which `run` may be left out: ``halcyon show run.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command `run` before the path of a document, and before its options."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_OrRun, help="Show what a run would do, without a device.", no_args_is_help=True)


@app.callback()
def _shows() -> None:
    """Show what a run would do, without a device. `halcyon show RUN.YAML` is short for `halcyon show run RUN.YAML`."""


app.command("dial")(show_dial)


@app.command("run")
def show_run(
    document: Document,
    defaults: Defaults = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Show the model, the optimizer state, the memory of each device, the tokens and the data of a run, in a second or
    two.

    Nothing is compiled: `halcyon plan` compiles the step, and so knows the memory of its activations.
    """
    with report_errors(document):
        run = valid_training(document, defaults, overrides)
        vocabulary = vocabulary_of(run.spec.tokenizer)
        program = _program(run.spec, vocabulary.tokens)
        from halcyon.commands.views.pages import run_page
        from halcyon.commands.views.run_summary import summarize

        summary = summarize(run, program, run_mesh(run.spec), vocabulary.tokens)
        note = f"The vocabulary is assumed to have {vocabulary.tokens:,} tokens: {vocabulary.note}."
        shown = summary.document() | {"vocabulary_note": vocabulary.note or None}
        _print(shown, (*run_page(summary), *([note] if vocabulary.note else [])), json=json)


app.command()(schedule)


@app.command()
def optimizer(
    document: Document,
    defaults: Defaults = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each parameter.")] = False,
) -> None:
    """Show every parameter: path, shape, role, group, update rule, rate factor, weight decay and bytes of optimizer
    state.

    Nothing is compiled. A group without a parameter, and a parameter in two groups, are errors here as in the run.
    """
    with report_errors(document):
        spec = valid_training(document, defaults, overrides).spec
        program = _program(spec, vocabulary_of(spec.tokenizer).tokens)
        from halcyon.commands.views.optimizer import overview, updates_table

        template = program.template
        rows = overview(spec.optimizer, template.model, template.optimizer_state, program.trained)
        if json:
            sys.stdout.writelines(f"{json_format.dumps(row.document())}\n" for row in rows)
        else:
            console().print(updates_table(rows))


@app.command()
def profile(
    root: Annotated[
        str, typer.Argument(help="The checkpoint root, with @STEP for the profile of a step that is not the newest.")
    ],
    endpoint: Endpoint = None,
    region: Region = None,
    json: Json = False,
) -> None:
    """Show a stored profile: step times, MFU, time by phase, and the processes that the others wait for."""
    from halcyon.host.storage.store import Store
    from halcyon.telemetry.diagnostics import PROFILES_PREFIX, profile_folders, profile_numbers
    from halcyon.weights.folder import root_place
    from halcyon.weights.root import split_step

    with report_root_errors():
        place, step = split_step(root)
        store = Store(root_place(place, endpoint, region))
        there = profile_folders(store)
        matching = [folder for folder in there if step is None or folder.startswith(f"{PROFILES_PREFIX}{step:012d}.")]
        numbers = profile_numbers(store, matching[-1]) if matching else {}
        if not numbers:
            steps = ", ".join(str(int(folder.removeprefix(PROFILES_PREFIX).split(".")[0])) for folder in there)
            raise BadConfiguration(f"{store.root} has no such profile; there are those of steps {steps or '(none)'}")
        if json:
            sys.stdout.write(f"{json_format.dumps(list(numbers.values()))}\n")
        else:
            console().print(profile_view(f"{store.root}/{matching[-1]}", numbers))


def _print(document: dict[str, Any], parts: Iterable[Any], *, json: bool) -> None:
    if json:
        sys.stdout.write(f"{json_format.dumps(document)}\n")
        return
    screen = console()
    for part in parts:
        screen.print(part, highlight=False)


def _program(spec: TrainingRunSpec, vocabulary: int) -> Program:
    """The program of a run on virtual devices; nothing is compiled."""
    from halcyon.commands.planning.compiled import virtual_mesh

    mesh = virtual_mesh(spec)
    from halcyon.step.program import build_program

    return build_program(spec, vocabulary, mesh)
