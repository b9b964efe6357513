"""The demo on SLURM: a run on two of three nodes through kills, lost nodes and a notice, and the same undisturbed."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from halcyon_demo.comparison import Comparison, compare, losses
from halcyon_demo.documents import example, variant
from halcyon_demo.records import LogLine
from halcyon_demo.slurm import Job, Slurm, down, node_of, slurm, supervisor_of
from halcyon_demo.tables import equality_table

EXAMPLE = "stdlib-llama"
STEPS = 90
_FIRST, _BETWEEN = 12, 15
"""Steps before the first fault, and at least between two."""


@dataclass(frozen=True)
class Hit:
    """A fault and what followed.

    Attributes:
        title: What was done.
        seconds: From the fault to the end of the next step.
        queued: Those of them in the queue of SLURM.
        resumed: Steps done in the state from which the run went on.
        source: Where that state was, `memory` (of the nodes) or `checkpoint`.
        repeated: Steps done after that state, which were lost.
    """

    title: str
    seconds: float
    queued: float
    resumed: int
    source: str
    repeated: int


def hits_of(title: str, at: float, queued: float, lines: Sequence[LogLine]) -> list[Hit]:
    """What followed a fault; empty while the run has not done another step. Pure.

    Args:
        title: What was done.
        at: When, in seconds since 1970.
        queued: Seconds in the queue since then.
        lines: The log of the run.
    """
    steps = [line for line in lines if line.event == "step"]
    old = max(line.group for line in steps if line.time <= at)
    done = max(line.step for line in steps if line.group <= old)
    later = [line for line in steps if line.group > old][:1]
    memory = any("ownFiles" in line.fields for line in lines if later and line.group == later[0].group)
    source = "memory" if memory else "checkpoint"
    return [Hit(title, one.time - at, queued, one.step - 1, source, done - one.step + 1) for one in later]


def on_folder(document: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """The example with its checkpoints in a shared folder, and with snapshots in the memory of the nodes. Pure."""
    changed = variant(document, name=name, steps=STEPS)
    spec = changed["spec"]
    spec["checkpoint"] = {
        "root": f"file://{folder}/{name}",
        "save": spec["checkpoint"]["save"],
        "memory": {"everySteps": 5},
    }
    spec["data"]["cache"]["root"] = f"file://{folder}/tokens"
    return changed


def run_demo_on_slurm(console: Console) -> Comparison:
    """Train on a SLURM that is started here and ends with the demo, and print the results.

    Args:
        console: Shows the story and the tables.

    Raises:
        DevclusterError: SLURM cannot be had on this machine, or a run did not go on.
    """
    document = example(EXAMPLE)
    names = (EXAMPLE, f"{EXAMPLE}-undisturbed")
    with tempfile.TemporaryDirectory(prefix="halcyon-demo-") as found, slurm() as cluster:
        folder = Path(found)
        documents = [on_folder(document, folder, name) for name in names]
        console.print(f"\nhalcyon slurm {EXAMPLE}.yaml --submit --spares 1", style="bold")
        job = Job(cluster, documents[0], folder / "job", "--spares=1")
        hits = _disturb(cluster, job, console)
        job.ends("COMPLETED")
        console.print("\nThe same document again, without faults", style="bold")
        undisturbed = Job(cluster, documents[1], folder / "undisturbed")
        undisturbed.ends("COMPLETED")
        both = [losses(one.lines(), name) for one, name in zip((job, undisturbed), names, strict=True)]
    comparison = compare(both[0], both[1], STEPS)
    for table in (hits_table(hits), equality_table(comparison, STEPS)):
        console.print()
        console.print(table)
    return comparison


def _disturb(cluster: Slurm, job: Job, console: Console) -> list[Hit]:
    found: list[Hit] = []

    def hit(title: str, harm: Callable[[], object], *, queued: bool = False) -> None:
        job.trains(_BETWEEN if found else _FIRST)
        at = time.time()
        console.print(f"→ step {job.lines('step')[-1].step}: {title}", style="yellow", highlight=False)
        harm()
        waited = job.requeued() if queued else 0.0
        job.until(lambda: bool(hits_of(title, at, waited, job.lines())))
        (one,) = hits_of(title, at, waited, job.lines())
        found.append(one)
        console.print(
            f"  training again {one.seconds:.1f} s after the fault, from step {one.resumed} ({one.source}); "
            f"{one.repeated} steps are repeated",
            highlight=False,
            soft_wrap=True,
        )

    hit("SIGKILL of a trainer", lambda: os.kill(job.trainer(0), signal.SIGKILL))
    hit("SIGKILL of a task", lambda: os.kill(supervisor_of(job.trainer(1)), signal.SIGKILL))
    hit("a node is lost, a spare one is left", lambda: down(cluster, node_of(job.trainer(1))))
    hit("a node is lost, no spare one is left", lambda: down(cluster, node_of(job.trainer(1))), queued=True)
    hit("notice (USR1)", lambda: cluster("scancel", "--signal=USR1", "--batch", job.number), queued=True)
    return found


def hits_table(hits: Sequence[Hit]) -> Table:
    """The seconds from each fault to the next step, and what was repeated."""
    table = Table(title="Seconds from fault to next step", title_justify="left", title_style="bold", header_style="dim")
    table.add_column("")
    for title in ("seconds", "in the queue", "went on from step", "read from", "steps repeated"):
        table.add_column(title, justify="right")
    for one in hits:
        row = (f"{one.seconds:.1f}", f"{one.queued:.1f}", str(one.resumed), one.source, str(one.repeated))
        table.add_row(one.title, *row)
    return table
