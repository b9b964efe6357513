"""The command ``halcyon show``: what a run would do, without a device.

``halcyon show run.yaml`` prints the summary of a run from its shapes alone. ``halcyon show optimizer run.yaml`` prints
the update of every parameter. ``halcyon show plan run.yaml`` compiles its step for the accelerators that it names, or
for virtual devices of this machine's processor where their compiler is not installed.
"""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from halcyon.commands.dial import show_dial
from halcyon.commands.errors import console, report_errors
from halcyon.commands.options import Defaults, Document, Overrides
from halcyon.commands.reading import valid_training
from halcyon.commands.show_schedule import schedule

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from rich.console import Console

    from halcyon.commands.views.optimizer import ParameterUpdate
    from halcyon.commands.views.run_summary import Summary
    from halcyon.step.device_use import Plan
    from halcyon_api.spec.mesh import ResolvedMesh
    from halcyon_api.training_run import TrainingRun, TrainingRunSpec


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
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show the model, the optimizer state, the memory of each device, the tokens and the data of a run, in a second or
    two.

    Nothing is compiled: `halcyon show plan` compiles the step, and so knows the memory of its activations.
    """
    with report_errors(document):
        found = _summarized(valid_training(document, defaults, overrides))
        if json:
            sys.stdout.write(f"{json_format.dumps(found.document())}\n")
            return
        from halcyon.commands.run_page import run_page

        shown = console()
        for part in run_page(found):
            shown.print(part)
        if found.vocabulary == _assumed_vocabulary():
            shown.print(f"The vocabulary is in a file; {found.vocabulary:,} tokens are assumed.", highlight=False)


app.command()(schedule)


@app.command()
def plan(
    document: Document,
    defaults: Defaults = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show the mesh of a run, the memory of each device, its kernels and loops, and what a step sends between devices.

    Compiles the step of the largest batch for the accelerators that the document names; they need not be there. This
    needs the extra `cuda` or `tpu`. Without it, the step is compiled for virtual devices of this machine's processor,
    whose compiler orders and fuses operations in another way: memory and collectives differ somewhat, and kernels are
    missing.
    """
    with report_errors(document):
        spec = valid_training(document, defaults, overrides).spec
        found, why_not = _planned(spec)
        if json:
            sys.stdout.write(f"{json_format.dumps(found.document())}\n")
            return
        from halcyon.commands.plan_page import plan_page

        shown = console()
        for part in plan_page(found):
            shown.print(part, highlight=False)
        if _vocabulary(spec) == _assumed_vocabulary():
            shown.print(f"The vocabulary is in a file; {_assumed_vocabulary():,} tokens are assumed.", highlight=False)
        if why_not is not None:
            planned = _without_kernel(spec).trainer.attention
            other = (
                f" with attention {planned} instead of {spec.trainer.attention}"
                if planned != spec.trainer.attention
                else ""
            )
            shown.print(
                f"Compiled for {found.platform}{other}, so the numbers differ somewhat: {why_not}.", highlight=False
            )


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
        rows = _updates(valid_training(document, defaults, overrides).spec)
        if json:
            sys.stdout.writelines(f"{json_format.dumps(row.document())}\n" for row in rows)
        else:
            _print_updates(rows, console())


@app.command()
def profile(
    root: Annotated[
        str, typer.Argument(help="The checkpoint root, with @STEP for the profile of a step that is not the newest.")
    ],
    endpoint: Annotated[str | None, typer.Option(help="Address of an S3-compatible store other than AWS.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of an S3 bucket.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers of all processes as JSON.")] = False,
) -> None:
    """Show a stored profile: step times, MFU, time by phase, and the processes that the others wait for."""
    from halcyon.commands.errors import report_root_errors
    from halcyon.commands.profile import profile_view
    from halcyon.errors import BadConfiguration
    from halcyon.storage.store import Store
    from halcyon.telemetry.diagnostics import PROFILES_PREFIX, profile_folders, profile_numbers
    from halcyon.weights.folder import address
    from halcyon.weights.root import split_step

    with report_root_errors():
        place, step = split_step(root)
        store = Store(address(place, endpoint, region))
        there = profile_folders(store)
        found = [folder for folder in there if step is None or folder.startswith(f"{PROFILES_PREFIX}{step:012d}.")]
        numbers = profile_numbers(store, found[-1]) if found else {}
        if not numbers:
            steps = ", ".join(str(int(folder.removeprefix(PROFILES_PREFIX).split(".")[0])) for folder in there)
            raise BadConfiguration(f"{store.root} has no such profile; there are those of steps {steps or '(none)'}")
        if json:
            sys.stdout.write(f"{json_format.dumps(list(numbers.values()))}\n")
        else:
            console().print(profile_view(f"{store.root}/{found[-1]}", numbers))


def _without_kernel(spec: TrainingRunSpec) -> TrainingRunSpec:
    """The spec with an attention that this machine's processor has: a kernel of an accelerator cannot be compiled
    here.
    """
    from halcyon_api.spec.attention import NARROW_KERNELS

    if spec.trainer.attention not in NARROW_KERNELS:
        return spec
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"attention": "auto"})})


def _virtual_mesh(spec: TrainingRunSpec) -> tuple[ResolvedMesh, Mesh]:
    """The mesh of a run, and the same mesh over virtual devices of this machine's processor."""
    import jax

    from halcyon_api.mesh import run_mesh

    mesh = run_mesh(spec)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", mesh.devices)
    from halcyon.parallel.mesh import build_mesh

    return mesh, build_mesh(mesh)


def _planned(spec: TrainingRunSpec) -> tuple[Plan, str | None]:
    """The plan of a run, and why its step is not compiled for its own hardware.

    None: it is, or its hardware is the processor.
    """
    from halcyon.commands.programs.devices import NoCompiler

    why_not = None
    if spec.accelerator.row.family != "cpu":
        from halcyon.commands.programs.compiling import plan_for_hardware

        try:
            return plan_for_hardware(spec), None
        except NoCompiler as error:
            why_not = str(error)
    spec = _without_kernel(spec)
    _, mesh = _virtual_mesh(spec)
    from halcyon.run.fitting import planned

    return planned(spec, _vocabulary(spec), mesh, spec.accelerator.row.memory_bytes), why_not


def _summarized(run: TrainingRun) -> Summary:
    from halcyon_api.mesh import document_vocabulary

    resolved, mesh = _virtual_mesh(run.spec)
    from halcyon.commands.views.run_summary import summarize
    from halcyon.step.program import build_program

    vocabulary = document_vocabulary(run.spec.tokenizer)
    return summarize(run, build_program(run.spec, vocabulary, mesh), resolved, vocabulary)


def _updates(spec: TrainingRunSpec) -> list[ParameterUpdate]:
    from halcyon_api.mesh import document_vocabulary

    _, mesh = _virtual_mesh(spec)
    from halcyon.commands.views.optimizer import overview
    from halcyon.step.program import build_program

    program = build_program(spec, document_vocabulary(spec.tokenizer), mesh)
    return overview(spec.optimizer, program.template.model, program.template.optimizer_state, program.trained)


def _print_updates(rows: list[ParameterUpdate], shown: Console) -> None:
    from rich.table import Table

    from halcyon_api.counting import size

    table = Table("parameter", "shape", "role", "group", "rule", "rate", "decay", "state")
    for row in rows:
        shape = " x ".join(f"{name} {number}" for name, number in row.shape.items())
        numbers = f"{row.rate_factor:g}", f"{row.weight_decay:g}", size(row.state_bytes)
        table.add_row(row.path, shape, row.role, row.group, row.rule, *numbers)
    table.add_section()
    table.add_row("all", *[""] * 6, size(sum(row.state_bytes for row in rows)))
    shown.print(table)


def _vocabulary(spec: TrainingRunSpec) -> int:
    from halcyon_api.mesh import document_vocabulary

    return document_vocabulary(spec.tokenizer)


def _assumed_vocabulary() -> int:
    from halcyon_api.mesh import ASSUMED_VOCABULARY

    return ASSUMED_VOCABULARY
