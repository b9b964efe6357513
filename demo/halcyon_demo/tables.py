"""The tables at the end. Pure: values in, rich tables out."""

from collections.abc import Sequence

from rich.table import Table

from halcyon_api.status import TrainingRunStatus
from halcyon_demo.comparison import Comparison, name
from halcyon_demo.recovery import PARTS, Recovery


def equality_table(comparison: Comparison, steps: int) -> Table:
    """Return how the losses of each world of the disturbed run compare with the undisturbed run."""
    table = _table("Losses, disturbed and undisturbed, bit for bit")
    for title in ("world", "steps", "done again", "losses", "equal", ""):
        table.add_column(title, justify="left" if title in ("world", "") else "right")
    for world in comparison.worlds:
        table.add_row(
            name(world.world),
            f"{world.first}-{world.last}",
            str(world.repeated),
            str(world.count),
            str(world.equal),
            _verdict(world.equal == world.count),
        )
    table.add_section()
    count, equal = (sum(getattr(world, field) for world in comparison.worlds) for field in ("count", "equal"))
    table.add_row("all", f"{comparison.steps} of {steps}", str(comparison.repeated), str(count), str(equal), _verdict(comparison.identical))
    return table


def recovery_table(recoveries: Sequence[Recovery]) -> Table:
    """Return where the seconds from each fault to the next step went."""
    table = _table("Seconds from fault to next step")
    table.add_column("fault")
    for part in (*PARTS, "total"):
        table.add_column(part, justify="right", style="bold" if part == "total" else "")
    table.add_column("resumed at", justify="right")
    table.add_column("steps lost", justify="right")
    for found in recoveries:
        seconds = [f"{found.seconds[part]:.1f}" for part in PARTS]
        table.add_row(found.fault.title, *seconds, f"{found.total_seconds:.1f}", str(found.resumed_step), str(found.lost_steps))
    return table


def summary_table(disturbed: TrainingRunStatus, undisturbed: TrainingRunStatus, repeated: int) -> Table:
    """Return what both runs cost, as their status says."""
    table = _table("What it cost")
    table.add_column("")
    table.add_column("disturbed", justify="right")
    table.add_column("undisturbed", justify="right")
    both = (disturbed, undisturbed)
    table.add_row("preemptions", *(str(status.restarts.preempted) for status in both))
    table.add_row("crashes", *(str(status.restarts.failed) for status in both))
    table.add_row("restarts in all", *(str(status.restarts.total) for status in both))
    table.add_row("steps done again", str(repeated), "0")
    table.add_row("wall seconds", *(f"{status.goodput.wall_seconds:.0f}" if status.goodput else "-" for status in both))
    table.add_row("goodput", *(f"{status.goodput.ratio:.1%}" if status.goodput else "-" for status in both))
    table.add_row("last loss", *(f"{status.progress.loss:.6f}" if status.progress and status.progress.loss else "-" for status in both))
    bits = [status.progress.bits_per_byte if status.progress else None for status in both]
    if any(bits):
        table.add_row("bits per byte, held out", *(f"{value:.4f}" if value else "-" for value in bits))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="dim")


def _verdict(equal: bool) -> str:
    return "[green]identical[/green]" if equal else "[red]different[/red]"
