"""What ``halcyon show plan`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from halcyon_api.counting import size

if TYPE_CHECKING:
    from halcyon.step.device_use import Plan
    from halcyon.step.hlo.contents import Loop


def plan_page(plan: Plan) -> Iterator[Table | str]:
    """The sentence of a plan, and its tables of memory, kernels, matrix products, loops and collectives; empty tables
    are left out.
    """
    yield plan.sentence()
    yield _memory(plan)
    if plan.kernels:
        table = Table("kernel", "function", "part of the step", "calls in a step")
        for call in plan.kernels:
            table.add_row(call.kernel, call.target, call.phase, f"{call.times:,}")
        yield table
    if plan.products:
        table = Table("matrix products", "loops around them", "number", "operations")
        for row in plan.products:
            table.add_row(row.dtype, str(row.depth), f"{row.times:,}", f"{row.flops / 1e12:,.3g} T")
        yield table
    if plan.loops:
        table = Table("loop", "iterations", "inside loops of", "products and kernels in an iteration", "number")
        rows = Counter(
            (_name(loop), _trips(loop.trips), " x ".join(map(_trips, loop.outer)), _work(loop)) for loop in plan.loops
        )
        for cells, number in rows.items():
            table.add_row(*cells, str(number))
        yield table
    if plan.traffic:
        table = Table("collectives of a step", "mesh axes", "loops around them", "number", "full arrays", "largest")
        for row in plan.traffic:
            numbers = str(row.depth), f"{row.times:,}", size(row.size_bytes), size(row.largest_bytes)
            table.add_row(row.kind, " x ".join(row.axes), *numbers)
        yield table
    if plan.overlap is not None and plan.overlap.covered is not None:
        yield (
            f"On an ideal device, computation covers {plan.overlap.covered:.0%} of the time of the collectives "
            "(docs/design/programs.md)."
        )
    if plan.compile_seconds is not None:
        yield f"The compiler took {plan.compile_seconds:.0f} s."


def _memory(plan: Plan) -> Table:
    table, parts = Table("memory of one device", "size"), plan.memory
    rows = {
        "parameters": parts.parameters,
        **({"of these frozen": parts.frozen} if parts.frozen else {}),
        "optimizer state": parts.optimizer,
        **({"of it in the host's memory": parts.offloaded} if parts.offloaded else {}),
        "gradients": parts.gradients,
        "activations and temporary arrays": parts.activations,
        "the whole step": parts.step,
        "there is": parts.available,
    }
    for name, count in rows.items():
        table.add_row(name, "not known" if count is None else size(count))
    return table


def _trips(trips: int | None) -> str:
    return "the data decides" if trips is None else f"{trips:,}"


def _name(loop: Loop) -> str:
    """The part of the model, if the loop names one, and the part of the step."""
    return f"{loop.scope or 'other'}, {loop.phase}"


def _work(loop: Loop) -> str:
    return f"{loop.products} and {loop.calls}"
