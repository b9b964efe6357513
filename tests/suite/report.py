"""The report of a run of the suite, printed at its end and written as JSON. Pure but for printing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from halcyon_devcluster.machine import Reading
from tests.suite.record import Record

_SLOWEST = 10


@dataclass(frozen=True)
class Step:
    """One step of a run: the checks, a part of the tests, a build.

    Attributes:
        name: The name in the report.
        seconds: Wall time.
        code: Exit status; 0 means success.
        record: Figures of its tests; empty if it has none. If tests failed and the status is 0, they passed when
            repeated alone.
    """

    name: str
    seconds: float
    code: int
    record: Record = field(default_factory=Record)


def slowest_files(steps: list[Step]) -> list[tuple[str, float]]:
    """The files whose tests took the most seconds in total, slowest first."""
    files: Counter[str] = Counter()
    for step in steps:
        files.update(step.record.by_file())
    return [(file, float(seconds)) for file, seconds in files.most_common(_SLOWEST)]


def document(tier: str, steps: list[Step], before: Reading, after: Reading) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "tier": tier,
        "seconds": round(sum(step.seconds for step in steps), 1),
        "machine": {
            "factor": round(before.factor, 2),
            "factorAfter": round(after.factor, 2),
            "stolen": round(after.stolen, 3),
        },
        "cores": before.cores,
        "steps": [
            {
                "name": step.name,
                "seconds": round(step.seconds, 1),
                "code": step.code,
                **step.record.outcomes,
                "failures": step.record.failed,
            }
            for step in steps
        ],
        "slowestFiles": {file: round(seconds, 1) for file, seconds in slowest_files(steps)},
        "files": {file: round(seconds, 2) for step in steps for file, seconds in sorted(step.record.by_file().items())},
    }


def show(console: Console, tier: str, steps: list[Step], before: Reading, after: Reading) -> None:
    """Print the report."""
    table = Table(
        "step",
        "seconds",
        "passed",
        "skipped",
        "failed",
        "",
        title=f"make {'test' if tier == 'test' else f'test-{tier}'}",
    )
    for column in table.columns[1:5]:
        column.justify = "right"
    for step in steps:
        outcomes = step.record.outcomes
        counts = (str(outcomes.get(outcome, "")) for outcome in ("passed", "skipped", "failed"))
        table.add_row(step.name, f"{step.seconds:.0f}", *counts, "ok" if step.code == 0 else f"exit {step.code}")
    table.add_section()
    total = sum(step.seconds for step in steps)
    table.add_row("all", f"{total:.0f}", "", "", "", f"{total / 60:.1f} min")
    console.print(table)
    files = Table("slowest files", "seconds of their tests")
    files.columns[1].justify = "right"
    for file, seconds in slowest_files(steps):
        files.add_row(file, f"{seconds:.0f}")
    console.print(files)
    console.print(f"The machine was {before}; at the end {after}.", highlight=False, soft_wrap=True)
    for step in steps:
        for test in step.record.failed:
            result = "FAILED" if step.code else "UNSTEADY (failed beside others, passed alone: mend it)"
            console.print(f"{result} {test}", highlight=False, markup=False, soft_wrap=True)
