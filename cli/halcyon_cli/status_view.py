"""One run, or the report of a run, as a terminal shows them. Pure: takes values, returns rich renderables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from halcyon.commands.views.tables import EIGHTHS, Bars, FittedTable, bar_lines
from halcyon_api.counting import amount, counted, percent
from halcyon_api.ends import COUNTERS
from halcyon_api.status.goodput import CAUSES, LOOKS, GoodputSeconds, cause_label
from halcyon_api.status.progress import Evaluated, Progress
from halcyon_api.status.run_status import Phase, TrainingRunStatus
from halcyon_cli.report import Report, number, read_report, span

_WIDTH = 60
_PHASE_STYLES: dict[Phase, str] = {
    "Running": "green",
    "Succeeded": "green",
    "Failed": "bold red",
    "Restarting": "yellow",
}
_WAITING = {"Pending", "Queued", "Starting", "Restarting", "Suspending"}
_BAND_WIDTH = 72


@dataclass(frozen=True)
class Host:
    """A trainer pod."""

    pod: str
    node: str
    state: str
    age_seconds: float


class Facts:
    """Names with their values, one line each."""

    def __init__(self) -> None:
        self.grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))

    def add(self, title: str, value: RenderableType) -> None:
        """Add a line."""
        # rich reads markup in a plain string, and messages from the cluster may hold brackets.
        self.grid.add_row(Text(title, "bold"), Text(value) if isinstance(value, str) else value)

    def add_progress(self, done: int, total: int, unit: str) -> None:
        """Add a bar, and its numbers."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=total or 1, completed=done, width=30), f"{done:,} of {total:,} {unit}")
        self.add("progress", bar)

    def add_goodput(self, report: Report) -> None:
        """Add the goodput of a run, and a band of its seconds by cause."""
        self.add(
            "goodput", band(report.seconds, _WIDTH - 20, f"{percent(report.ratio, 1)} of {span(report.wall_seconds)}")
        )

    def add_losses(self, title: str, words: str, values: Sequence[float]) -> None:
        """Add losses: a few words, and a line of small bars."""
        self.add(title, Bars(words, lambda width: Text(sparkline(values, width), "cyan"), min(_WIDTH, len(values))))


def run_view(
    name: str,
    status: TrainingRunStatus,
    steps: int | None,
    hosts: Sequence[Host],
    losses: Sequence[float],
    now: datetime,
) -> RenderableType:
    """Return the view of one run.

    Args:
        name: Name of the run.
        status: Status of the run.
        steps: Steps of the whole run, from its spec.
        hosts: Trainer pods of the run.
        losses: Losses of the last steps, oldest first.
        now: Current time, with time zone.
    """
    facts = Facts()
    fact = facts.add
    ready = status.condition("Ready")
    fact("phase", Text(status.phase, _PHASE_STYLES.get(status.phase, "cyan")))
    if ready and ready.message:
        fact("why" if status.phase in _WAITING else "that is", Text(ready.message))
        if status.phase in _WAITING:
            fact("since", Text(_ago(ready.last_transition_time, now)))
    topology = status.topology
    if topology is not None:
        mesh = ", ".join(f"{axis} {size}" for axis, size in topology.mesh.model_dump().items() if size != 1)
        sizes = ((topology.slices, "slice"), (topology.hosts, "host"), (topology.devices, "device"))
        fact("runs on", f"{', '.join(counted(*size) for size in sizes)}; mesh: {mesh or 'one device'}")
    if status.defaults and status.defaults.sources:
        of = " and ".join(f"{source.namespace}/{source.name}" for source in status.defaults.sources)
        fact("defaults", Text(f"{', '.join(status.defaults.values)} of {of}"))
    progress = status.progress
    evaluated = progress and progress.evaluated
    if progress is not None:
        facts.add_progress(progress.step, progress.steps or steps or 1, "batches" if evaluated else "steps")
        fact("speed", _speed(progress))
    if (planned := _planned(status)) is not None:
        fact("plan", planned)
    if losses:
        facts.add_losses("loss", f"{losses[-1]:z.4f}", losses)
    if evaluated:
        fact("evaluates", f"run {evaluated.run} at step {evaluated.step:,}, {evaluated.path}")
    if progress and progress.tasks:
        fact("tasks", ", ".join(f"{name} {value:z.4f}" for name, value in progress.tasks.items()))
    if (saved := status.checkpoint) is not None:
        fact("saved", f"step {saved.step:,}, {_ago(saved.time, now)} ago, {saved.path}")
    counts = status.restarts.model_dump(by_alias=True)
    causes = ", ".join(f"{counts[name]} {name}" for name in COUNTERS if counts[name])
    in_place = f"; {status.restarts.in_place} in place" if status.restarts.in_place else ""
    fact("restarts", f"{causes}{in_place}" or "none")
    report = read_report(name, status)
    if report is not None:
        facts.add_goodput(report)
    parts: list[RenderableType] = [Text(name, "bold"), facts.grid]
    if progress and evaluated and evaluated.sources:
        parts.append(_evaluation_table(progress, evaluated))
    if hosts:
        table = FittedTable("host", "node", "state", numbers=("age",), drops=("age", "node"))
        for host in hosts:
            table.add_row(*map(Text, (host.pod, host.node, host.state, span(host.age_seconds))))
        parts.append(table)
    return Group(*parts)


def _planned(status: TrainingRunStatus) -> str | None:
    """The plan of a run in a few words, or what is wrong with it; None: it has none."""
    plan, condition = status.plan, status.condition("Planned")
    if plan is None:
        return None
    if condition and condition.status == "False":
        return condition.message
    words = (
        f"{plan.memory} of a device" if plan.memory else "",
        f"{plan.tokens_per_second:,.0f} tokens/s" if plan.tokens_per_second else "",
        f"{plan.chip_hours:,.1f} chip-hours" if plan.chip_hours else "",
        f"cost {plan.cost:,.2f}" if plan.cost else "",
    )
    return ", ".join(filter(None, words)) or plan.message


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` small bars; each shows the mean of an equal share of the values."""
    count = min(width, len(values))
    shares = [values[index * len(values) // count : (index + 1) * len(values) // count] for index in range(count)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    scale = (EIGHTHS - 1) / (high - low) if high > low else 0.0
    return next(bar_lines(1 + round(scale * (mean - low)) for mean in means))


def _evaluation_table(progress: Progress, evaluated: Evaluated) -> FittedTable:
    """Return the results, one line per source, and one line for all sources once all are evaluated."""
    numbers = "loss", "bits per byte", "tokens", "sequences"
    table = FittedTable("source", numbers=numbers, drops=("sequences", "tokens"))
    for one in evaluated.sources:
        table.add_row(one.source, number(one.loss), number(one.bits_per_byte), f"{one.tokens:,}", f"{one.sequences:,}")
    if progress.evaluation_loss is not None and len(evaluated.sources) > 1:
        tokens, sequences = map(sum, zip(*((one.tokens, one.sequences) for one in evaluated.sources), strict=True))
        table.add_section()
        table.add_row(
            "all", number(progress.evaluation_loss), number(progress.bits_per_byte), f"{tokens:,}", f"{sequences:,}"
        )
    return table


def _speed(progress: Progress) -> str:
    if progress.tokens_per_second is None:
        return "-"
    mfu = "" if progress.mfu is None else f"MFU {percent(progress.mfu, 1)}"
    left = "" if progress.eta_seconds is None else f"{span(progress.eta_seconds)} left"
    return ", ".join(filter(None, (f"{amount(progress.tokens_per_second, 0)} tokens/s", mfu, left)))


def _ago(time: str, now: datetime) -> str:
    try:
        return span(max(0.0, (now - datetime.fromisoformat(time)).total_seconds()))
    except (ValueError, TypeError):
        return "?"


def report_view(report: Report) -> RenderableType:
    """Return a band of the whole run, its seconds by cause, and its process groups."""
    return Group(
        _report_title(report),
        band(report.seconds, _BAND_WIDTH),
        causes_table(report),
        process_groups_table(report),
    )


def _report_title(report: Report) -> Text:
    text = Text(f"{report.run}  ", "bold")
    text.append(f"{report.phase}, {percent(report.ratio, 1)} goodput of {span(report.wall_seconds)}", "default")
    if report.suspended_seconds:
        text.append(f" (suspended for {span(report.suspended_seconds)} more)", "dim")
    return text


def band(seconds: GoodputSeconds, width: int, words: str = "") -> Bars:
    """Return the seconds as at most `width` coloured blocks after some words; a cause with less than half a block has
    none.
    """
    total = seconds.total or 1.0

    def blocks(room: int) -> Text:
        text = Text()
        for cause, look in LOOKS.items():
            text.append("█" * round(room * getattr(seconds, cause) / total), look.colour)
        return text

    return Bars(words, blocks, width, coloured=True)


def causes_table(report: Report) -> FittedTable:
    """Return seconds and shares by cause; the seconds add up to the wall time."""
    table = FittedTable("cause", numbers=("seconds", "share"), drops=("meaning",))
    table.add_column("meaning", style="dim")
    wall = report.wall_seconds or 1.0
    for cause in CAUSES:
        seconds = getattr(report.seconds, cause)
        if seconds > 0:
            table.add_row(
                Text(cause_label(cause), LOOKS[cause].colour),
                f"{seconds:.1f}",
                percent(seconds / wall, 1),
                LOOKS[cause].meaning,
            )
    table.add_section()
    table.add_row(
        "all", f"{report.wall_seconds:.1f}", "100.0%", "every second since the run first started", style="bold"
    )
    return table


def process_groups_table(report: Report) -> FittedTable:
    """Return the process groups, one row each, oldest first."""
    numbers = ("seconds", "until first step", "productive", "lost")
    drops = "until first step", "productive", "lost"
    table = FittedTable("start", "steps", "ended", numbers=numbers, drops=drops)
    before_steps = [cause for cause, look in LOOKS.items() if look.place <= LOOKS["compile"].place]
    for group in report.groups:
        start = sum(getattr(group.seconds, cause) for cause in before_steps)
        table.add_row(
            group.title,
            group.steps or "-",
            group.end_words or group.ended or "-",
            f"{group.seconds.total:.1f}",
            f"{start:.1f}",
            f"{group.seconds.productive_step:.1f}",
            f"{group.seconds.lost_work:.1f}",
        )
    return table
