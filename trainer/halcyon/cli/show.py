"""The commands ``halcyon show``. ``plan``: how a run would use its devices, compiled for virtual devices of this machine's processor."""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from halcyon.cli.errors import console, report_errors
from halcyon.cli.options import Defaults, Document, Overrides
from halcyon.cli.reading import valid_training
from halcyon.cli.show_schedule import schedule

if TYPE_CHECKING:
    from rich.console import Console

    from halcyon.training.plan import Plan
    from halcyon_api.training_run import TrainingRunSpec

app = typer.Typer(help="Show what a run would do, without a device.", no_args_is_help=True)


@app.callback()
def _shows() -> None:
    """Show what a run would do, without a device."""


app.command()(schedule)


@app.command()
def plan(
    document: Document,
    defaults: Defaults = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show the mesh of a run, the memory of each device, and what a step sends between devices.

    Compiles the step of the largest batch for virtual devices of this machine's processor. An accelerator's compiler orders and fuses
    operations in another way, so its memory and its collectives differ somewhat; the log of the run has its own numbers.
    """
    with report_errors(document):
        spec = valid_training(document, defaults, overrides)
        found = _planned(_without_kernel(spec))
        if json:
            sys.stdout.write(f"{json_format.dumps(found.document())}\n")
        else:
            _print(found, spec, console())


def _without_kernel(spec: TrainingRunSpec) -> TrainingRunSpec:
    """The spec with an attention that this machine's processor has: a kernel of an accelerator cannot be compiled here."""
    from halcyon_api.spec.attention import NARROW_KERNELS

    if spec.trainer.attention not in NARROW_KERNELS:
        return spec
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update={"attention": "auto"})})


def _planned(spec: TrainingRunSpec) -> Plan:
    import jax

    from halcyon_api.hardware import TABLE
    from halcyon_api.mesh import document_vocabulary, run_mesh

    mesh = run_mesh(spec)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", mesh.devices)
    from halcyon.parallel.mesh import build_mesh
    from halcyon.training.fitting import planned

    return planned(spec, document_vocabulary(spec.tokenizer), build_mesh(mesh), TABLE[spec.accelerator.type].memory_bytes)


def _print(found: Plan, spec: TrainingRunSpec, shown: Console) -> None:
    from rich.table import Table

    from halcyon.machine.memory import size
    from halcyon_api.counting import counted
    from halcyon_api.mesh import ASSUMED_VOCABULARY, document_vocabulary

    shown.print(found.sentence(), highlight=False)
    memory = Table("memory of one device", "size")
    parts = found.memory
    rows = {
        "parameters": parts.parameters,
        "optimizer state": parts.optimizer,
        "gradients": parts.gradients,
        "activations and temporary arrays": parts.activations,
        "the whole step": parts.step,
        "there is": parts.available,
    }
    for name, count in rows.items():
        memory.add_row(name, "not known" if count is None else size(count))
    shown.print(memory)
    sent = Table("collectives of a step", "mesh axes", "number", "full arrays")
    for row in found.traffic:
        sent.add_row(row.kind, " x ".join(row.axes), str(row.times), size(row.size_bytes))
    if found.traffic:
        shown.print(sent)
    if document_vocabulary(spec.tokenizer) == ASSUMED_VOCABULARY:
        shown.print(f"The vocabulary is in a file; {counted(ASSUMED_VOCABULARY, 'token')} are assumed.", highlight=False)
    if spec.accelerator.type != "cpu":
        planned = _without_kernel(spec).trainer.attention
        other = f" with attention {planned} instead of {spec.trainer.attention}" if planned != spec.trainer.attention else ""
        shown.print(
            f"Compiled for {found.platform}{other}: on {spec.accelerator.type} the compiler's numbers differ somewhat.", highlight=False
        )
