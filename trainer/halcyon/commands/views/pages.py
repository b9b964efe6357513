"""The pages of ``halcyon show run.yaml`` and of a compiled step: tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from halcyon.commands.views.run_summary import Summary
from halcyon.commands.views.tables import FittedTable, numbers_table
from halcyon_api.counting import counted, size
from halcyon_api.spec.mesh import product

if TYPE_CHECKING:
    from halcyon.step.device_use import Plan

UTILISATION = 0.4
"""Model FLOPs utilisation for which the page states the duration of the run, without evaluations and saves."""


def run_page(summary: Summary) -> Iterator[RenderableType]:
    """The parts of the page, from top to bottom."""
    devices = counted(summary.devices, "device")
    yield Text(
        f"{summary.run}: {summary.family} on {summary.accelerator}, {devices}, mesh {product(summary.mesh)}",
        style="bold",
    )
    yield _model(summary)
    yield _optimizer(summary)
    yield _device(summary)
    yield _work(summary)
    yield _sources(summary)


def _model(summary: Summary) -> FittedTable:
    table = numbers_table(
        "Model", "parameter", "axes", "role", "type", "parameters", "bytes", "FLOPs per token", left=4
    )
    for row in summary.parameters:
        axes = " ".join(f"{name} {count}" for name, count in row.axes)
        flops = f"{row.flops_per_token:,}" if row.flops_per_token else "-"
        table.add_row(row.path, axes, row.role, row.dtype, f"{row.parameters:,}", size(row.size_bytes), flops)
    table.add_row("scores, values and states", "", "", "", "", "", f"{summary.attention_flops_per_token:,}")
    table.add_section()
    size_bytes = sum(row.size_bytes for row in summary.parameters)
    table.add_row("all", "", "", "", f"{summary.parameter_count:,}", size(size_bytes), f"{summary.flops_per_token:,}")
    if summary.active_parameters not in (None, summary.parameter_count):
        table.add_row("active for a token", "", "", "", f"{summary.active_parameters:,}", "", "")
    return table


def _optimizer(summary: Summary) -> FittedTable:
    table = numbers_table(f"Optimizer state ({summary.optimizer})", "state", "type", "elements", "bytes", left=2)
    for row in summary.state:
        table.add_row(row.path, row.dtype, f"{row.elements:,}", size(row.size_bytes))
    return table


def _device(summary: Summary) -> FittedTable:
    table = numbers_table("Memory of one device", "part", "size")
    device = summary.device
    parts = {
        "parameters": device.parameters,
        "optimizer state": device.optimizer,
        "gradients": device.gradients,
        "activations, at least": device.activations_at_least,
    }
    for name, count in parts.items():
        table.add_row(name, size(count))
    table.add_section()
    table.add_row("all of these", size(sum(parts.values())))
    table.add_row("there is", "not known" if device.available is None else size(device.available))
    return table


def _work(summary: Summary) -> FittedTable:
    table = numbers_table("Work", "what", "amount")
    table.add_row("steps", f"{summary.steps:,}")
    table.add_row(
        "tokens of the first step",
        f"{summary.batch_size} x {summary.sequence_length} = {summary.batch_size * summary.sequence_length:,}",
    )
    table.add_row("tokens of the run", f"{summary.tokens:,}")
    table.add_row("tokens for each parameter", f"{summary.tokens / max(1, summary.parameter_count):,.1f}")
    table.add_row("FLOPs of the run", f"{summary.flops:.3g}")
    if summary.peak_flops_per_second is not None:
        seconds = summary.flops / (UTILISATION * summary.peak_flops_per_second)
        table.add_row(f"time at {UTILISATION:.0%} of the peak (MFU)", duration(seconds))
    return table


def _sources(summary: Summary) -> FittedTable:
    table = numbers_table(
        f"Data, {counted(summary.vocabulary, 'token')} in the vocabulary", "source", "kind", "share", "held out", left=2
    )
    for row in summary.sources:
        table.add_row(
            row.name, row.kind, "by its size" if row.share is None else f"{row.share:.1%}", f"{row.validation:.1%}"
        )
    return table


def duration(seconds: float) -> str:
    """A time with the unit that fits it."""
    for unit, factor in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:,.1f} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def program_page(plan: Plan) -> Iterator[FittedTable | str]:
    """The tables of a compiled step: kernels, matrix products, loops and collectives; empty tables are left out."""
    if plan.kernels:
        rows = [(call.kernel, call.target, call.phase, f"{call.times:,}") for call in plan.kernels]
        yield _rows(rows, "kernel", "function", "part of the step", "calls in a step")
    if plan.products:
        rows = [(row.dtype, str(row.depth), f"{row.times:,}", f"{row.flops / 1e12:,.3g} T") for row in plan.products]
        yield _rows(rows, "matrix products", "loops around them", "number", "operations")
    if plan.loops:
        loops = Counter(
            (
                f"{loop.scope or 'other'}, {loop.phase}",
                _trips(loop.trips),
                " x ".join(map(_trips, loop.outer)),
                f"{loop.products} and {loop.calls}",
            )
            for loop in plan.loops
        )
        rows = [(*cells, str(number)) for cells, number in loops.items()]
        yield _rows(rows, "loop", "iterations", "inside loops of", "products and kernels in an iteration", "number")
    if plan.traffic:
        rows = [
            (
                row.kind,
                " x ".join(row.axes),
                str(row.depth),
                f"{row.times:,}",
                size(row.size_bytes),
                size(row.largest_bytes),
            )
            for row in plan.traffic
        ]
        yield _rows(rows, "collectives of a step", "mesh axes", "loops around them", "number", "full arrays", "largest")
    if plan.overlap is not None and plan.overlap.covered is not None:
        yield (
            f"On an ideal device, computation covers {plan.overlap.covered:.0%} of the time of the collectives "
            "(docs/design/programs.md)."
        )


def _rows(rows: Iterable[Sequence[str]], *columns: str) -> FittedTable:
    table = FittedTable(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def _trips(trips: int | None) -> str:
    return "the data decides" if trips is None else f"{trips:,}"
