"""The pages of ``halcyon plan``: tables for a terminal."""

from collections.abc import Iterator

from rich.console import RenderableType

from halcyon.commands.planning.estimate import Estimate, Number, Run
from halcyon.commands.planning.search import Row, Tried, words
from halcyon.commands.views.pages import duration, program_page
from halcyon.commands.views.tables import FittedTable, numbers_table
from halcyon.step.device_use import Plan
from halcyon.step.step_time import StepTime
from halcyon_api.counting import percent, size


def plan_page(plan: Plan, numbers: Estimate, run: Run, note: str, *, details: bool) -> Iterator[RenderableType]:
    """The parts of the page, from top to bottom."""
    yield f"{run.compiled.capitalize()}: {plan.sentence()}"
    if note:
        yield note
    for title, found in numbers.sections.items():
        table = FittedTable(title, "value", "basis", "note", drops=("note", "basis"))
        for one in found:
            table.add_row(one.name, shown(one), one.basis, one.note)
        yield table
    if numbers.step is not None:
        yield _parts(numbers.step)
    if plan.traffic:
        yield _traffic(plan)
    if details:
        yield from program_page(plan)
    if numbers.missing_bytes:
        yield f"It does not fit: a device lacks {size(numbers.missing_bytes)}. `--search` tries other meshes."
    if numbers.fits is None:
        yield "It is not known whether it fits: the plan does not have the memory of the step, or of the device."


def _parts(step: StepTime) -> FittedTable:
    table = numbers_table(
        "Time of a step on one device", "part", "bound by", "FLOPs", "bytes", "ideal", "time", "share", left=2
    )
    for part in step.parts:
        table.add_row(
            part.name,
            part.bound,
            f"{part.flops:.3g}" if part.flops else "-",
            size(round(part.moved_bytes)),
            duration(part.ideal_seconds),
            duration(part.seconds),
            percent(part.seconds / step.seconds),
        )
    return table


def _traffic(plan: Plan) -> FittedTable:
    table = numbers_table("What a device sends in a step", "collective", "mesh axes", "over", "number", "bytes", left=3)
    for row in plan.traffic:
        over = "network" if row.between else "links of the slice"
        table.add_row(row.kind, " x ".join(row.axes), over, f"{row.times:,}", size(row.sent_bytes))
    return table


def ranking(tried: Tried) -> Iterator[RenderableType]:
    """The candidates, the best first."""
    table = numbers_table(
        "Candidates", "changes", "memory", "time of a step", "MFU", "time of the run", "chip-hours", "cost", left=1
    )
    for row in tried.rows:
        table.add_row(words(row.changes), *(_cell(row, *place) for place in _PLACES))
    yield table
    if tried.left:
        yield f"There was no time for {tried.left} more; give more with --minutes."
    if tried.best is None:
        yield "None of these fits."


_PLACES = (
    ("memory of a device", "the whole step"),
    ("step", "time of a step"),
    ("step", "MFU"),
    ("run", "time of the run"),
    ("run", "chip-hours"),
    ("run", "cost"),
)


def _cell(row: Row, section: str, name: str) -> str:
    if row.plan is None:
        return row.error if (section, name) == _PLACES[0] else ""
    found = row.plan["plan"].get(section, {}).get(name)
    text = "-" if found is None else shown(Number(name, found["value"], found.get("unit", ""), found["basis"]))
    if (section, name) != _PLACES[0] or row.fits:
        return text
    return f"{text}, not known to fit" if row.fits is None else f"{text}, does not fit"


def shown(number: Number) -> str:
    """A number with its unit, for people."""
    value = number.value
    if value is None:
        return "not known"
    if isinstance(value, str):
        return value
    match number.unit:
        case "bytes":
            return size(round(value))
        case "seconds":
            return duration(value)
        case "share":
            return percent(value, 1)
        case "FLOPs":
            return f"{value:.3g}"
        case "money":
            return f"{value:,.2f}"
        case _:
            return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
