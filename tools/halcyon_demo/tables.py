"""The tables that the demo prints at its end. Pure: takes values, returns rich tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from halcyon_api.counting import percent
from halcyon_api.status.goodput import CAUSES, LOOKS, cause_label
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_cli.report import Report
from halcyon_demo.comparison import Comparison, name
from halcyon_demo.records import LogLine
from halcyon_demo.recovery import MEANINGS, PARTS, Recovery


def equality_table(comparison: Comparison, steps: int) -> Table:
    """Compare the losses of the disturbed run with the undisturbed run: one row per process group."""
    table = _table("Losses, disturbed and undisturbed, bit for bit")
    for title in ("process group", "steps", "repeated", "losses", "equal", ""):
        table.add_column(title, justify="left" if title in ("process group", "") else "right")
    for group in comparison.groups:
        table.add_row(
            name(group.group),
            f"{group.first}-{group.last}",
            str(group.repeated),
            str(group.count),
            str(group.equal),
            _verdict(group.equal == group.count),
        )
    table.add_section()
    count, equal = (sum(getattr(group, field) for group in comparison.groups) for field in ("count", "equal"))
    table.add_row(
        "all",
        f"{comparison.steps} of {steps}",
        str(comparison.repeated),
        str(count),
        str(equal),
        _verdict(comparison.identical),
    )
    return table


def recovery_table(recoveries: Sequence[Recovery]) -> Table:
    """Return the seconds from each fault to the next step: one row per part, one column per fault."""
    table = _table("Seconds from fault to next step")
    table.add_column("")
    for found in recoveries:
        table.add_column(found.fault.title, justify="right")
    table.add_column("meaning", style="dim")
    for part in PARTS:
        table.add_row(part, *(f"{found.seconds[part]:.1f}" for found in recoveries), MEANINGS[part])
    table.add_section()
    table.add_row("total", *(f"{found.total_seconds:.1f}" for found in recoveries), "", style="bold")
    table.add_row("resumed at step", *(str(found.resumed_step) for found in recoveries), "")
    table.add_row("read from", *(found.source for found in recoveries), "memory of the pods, or the store")
    table.add_row("steps lost", *(str(found.lost_steps) for found in recoveries), "repeated by the next processes")
    return table


def in_place_table(recoveries: Sequence[Recovery], others: Sequence[Recovery]) -> Table:
    """Return the seconds from a fault to the next step in place, beside those of a restart that replaces all pods.

    Args:
        recoveries: Recoveries in place, among others.
        others: Recoveries from the same faults of a run whose restarts replace all pods.
    """
    table = _table("Seconds from fault to next step, in place or with new pods")
    table.add_column("")
    for title in ("in place", "all pods replaced"):
        table.add_column(title, justify="right")
    of = {found.fault.title: found for found in recoveries}
    for other in others:
        both = (of[other.fault.title], other)
        table.add_row(other.fault.title, *(f"{found.total_seconds:.1f}" for found in both))
    return table


@dataclass(frozen=True)
class Cost:
    """Cost and result of a run, from its status and its log.

    Attributes:
        status: Status at the end of the run.
        repeated: Number of repeated steps.
        loss: Training loss of the last step, in nats per token.
        bits_per_byte: Result of the last evaluation on the held-out part; None if there was none.
    """

    status: TrainingRunStatus
    repeated: int
    loss: float
    bits_per_byte: float | None


def cost(status: TrainingRunStatus, lines: Sequence[LogLine]) -> Cost:
    """Return cost and result of a run, from its status and its log."""
    steps = [line for line in lines if line.event == "step"]
    evaluations = [line.fields.get("bitsPerByte") for line in lines if line.event == "evaluation"]
    return Cost(
        status=status,
        repeated=len(steps) - len({line.step for line in steps}),
        loss=steps[-1].fields["loss"],
        bits_per_byte=evaluations[-1] if evaluations else None,
    )


def accounts_table(disturbed: Report, undisturbed: Report) -> Table:
    """Return the seconds of both runs by cause."""
    table = _table("Every second, by cause")
    table.add_column("")
    for title in ("disturbed", "undisturbed"):
        table.add_column(title, justify="right")
    table.add_column("meaning", style="dim")
    for cause in CAUSES:
        seconds = [getattr(report.seconds, cause) for report in (disturbed, undisturbed)]
        if any(seconds):
            table.add_row(cause_label(cause), *(f"{one:.1f}" for one in seconds), LOOKS[cause].meaning)
    table.add_section()
    table.add_row(
        "all",
        *(f"{one.wall_seconds:.1f}" for one in (disturbed, undisturbed)),
        "from the first pod to the last step",
        style="bold",
    )
    return table


def summary_table(disturbed: Cost, undisturbed: Cost) -> Table:
    """Return cost and result of both runs."""
    table = _table("What it cost")
    table.add_column("")
    table.add_column("disturbed", justify="right")
    table.add_column("undisturbed", justify="right")
    both = (disturbed, undisturbed)
    restarts = [found.status.restarts.model_dump() for found in both]
    goodput = [found.status.goodput for found in both]
    table.add_row("preemptions", *(str(found["preempted"]) for found in restarts))
    table.add_row("crashes", *(str(found["failed"]) for found in restarts))
    table.add_row("other restarts", *(str(found["total"] - found["preempted"] - found["failed"]) for found in restarts))
    table.add_row("of all, in place", *(str(found["in_place"]) for found in restarts))
    table.add_row("steps lost", *(str(found.repeated) for found in both))
    table.add_row("wall seconds", *(f"{found.wall_seconds:.0f}" if found else "-" for found in goodput))
    table.add_row("goodput", *(percent(found.ratio, 1) if found else "-" for found in goodput))
    table.add_row("last loss", *(f"{found.loss:.9f}" for found in both))
    if any(found.bits_per_byte for found in both):
        table.add_row(
            "bits per byte, held out", *(f"{found.bits_per_byte:.6f}" if found.bits_per_byte else "-" for found in both)
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="dim")


def _verdict(equal: bool) -> str:
    return "[green]identical[/green]" if equal else "[red]different[/red]"
