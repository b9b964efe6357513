"""Other meshes and other hardware for a document, each compiled by a process of its own, and their ranking.

A candidate is the document with some fields set. The document's own values come first, and alone, so what is found is
never worse than they are. Then come the candidates in the order of `mesh_candidates` or `hardware_candidates`: those
that are often good first, because the time may end before all were tried.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon.run.auto_tuning import USABLE
from halcyon_api.base import InvalidRun
from halcyon_api.counting import counted
from halcyon_api.hardware import TABLE
from halcyon_api.memory import least_need
from halcyon_api.mesh import model_shape, run_mesh
from halcyon_api.overrides import override, with_overrides
from halcyon_api.spec.mesh import AXES
from halcyon_api.training_run import TrainingRun, TrainingRunSpec
from halcyon_api.validation import find_problems

Changes = dict[str, Any]
"""Values by path, such as ``spec.mesh.ici.tensor``."""
_AUTOMATIC: Changes = {f"spec.trainer.{name}": "auto" for name in ("microbatches", "remat", "offload")}
_INSIDE = tuple(row.name for row in AXES if row.link == "ici")
_LARGEST = {"tensor": 8, "context": 8}


@dataclass(frozen=True)
class Source:
    """The document on the command line.

    Attributes:
        document: Its path.
        options: Further options of ``halcyon plan``: defaults, changes and assumptions.
    """

    document: Path
    options: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A candidate.

    Attributes:
        changes: What it changes in the document; empty for the document itself.
        plan: The output of ``halcyon plan --json``. None: it failed.
        error: Why it failed.
    """

    changes: Changes
    plan: dict[str, Any] | None
    error: str = ""

    def value(self, section: str, name: str) -> Any:
        """A number of its plan; None if there is none."""
        numbers = {} if self.plan is None else self.plan["plan"].get(section, {})
        return numbers.get(name, {}).get("value")

    @property
    def fits(self) -> bool | None:
        """Whether its step fits into the memory of a device. None: its plan does not know."""
        step, there = (self.value("memory of a device", name) for name in ("the whole step", "there is"))
        if self.plan is None:
            return False
        return None if step is None or there is None else step <= USABLE * there

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {"changes": self.changes, "fits": self.fits, "error": self.error or None, **(self.plan or {})}


@dataclass(frozen=True)
class Tried:
    """What was tried.

    Attributes:
        rows: The candidates, the best first; those that do not fit come last.
        left: Candidates for which there was not enough time.
    """

    rows: tuple[Row, ...]
    left: int

    @property
    def best(self) -> Row | None:
        """The best candidate that fits, or of which that is not known if none does. None: none fits."""
        return next((row for row in self.rows if row.fits is not False), None)


def ranked(rows: Iterable[Row], *, by_money: bool = False) -> tuple[Row, ...]:
    """Rows that fit first, then those of which that is not known, then others; by the time of a step, or by cost, and
    after it by chip-hours.
    """
    keys = (("run", "cost"), ("run", "chip-hours")) if by_money else (("step", "time of a step"),)

    def order(row: Row) -> tuple[float, ...]:
        found = [row.value(*key) for key in keys]
        return (True, None, False).index(row.fits), *(math.inf if one is None else float(one) for one in found)

    return tuple(sorted(rows, key=order))


def mesh_candidates(run: TrainingRun, fits: bool) -> Iterator[Changes]:
    """Meshes of the run's devices with which the document is valid: few devices on an axis that costs traffic in every
    layer first. ``auto`` chooses microbatches, remat and offload for each.

    Args:
        run: The run.
        fits: Whether it fits into the memory with its own values. Then ``offload: auto`` changes nothing.
    """
    trainer, own_mesh = run.spec.trainer, run_mesh(run.spec)
    devices = run.spec.accelerator.resolve().devices_per_slice
    if not fits or (trainer.microbatches, trainer.remat) != ("auto", "auto"):
        yield _AUTOMATIC
    has_experts = run.spec.model.family != "custom" and model_shape(run.spec).idle_parameters > 0
    choices = [
        dict(zip(_INSIDE, sizes, strict=True))
        for sizes in itertools.product(
            *([size for size in range(1, _LARGEST.get(name, devices) + 1) if devices % size == 0] for name in _INSIDE)
        )
        if math.prod(sizes) == devices
    ]
    choices.sort(key=lambda sizes: (sizes["tensor"] * sizes["context"], sizes["data"], sizes["expert"]))
    for sizes in choices:
        if (sizes["expert"] > 1 and not has_experts) or sizes["data"] > 1:
            continue
        changes = {f"spec.mesh.ici.{name}": size for name, size in sizes.items()} | _AUTOMATIC
        found = _that_may_fit(run, changes)
        if found is not None and run_mesh(found.spec) != own_mesh:
            yield changes


def hardware_candidates(run: TrainingRun) -> Iterator[Changes]:
    """Accelerators and topologies on which the run may fit: of each type the smallest one, and two larger ones."""
    for name, row in TABLE.items():
        if row.family == "cpu" or row.memory_bytes is None or row.peak_flops_per_second is None:
            continue
        found = 0
        for topology in _topologies(row):
            changes = {
                "spec.accelerator.type": name,
                "spec.accelerator.topology": topology,
                "spec.mesh": None,
                **_AUTOMATIC,
            }
            if _that_may_fit(run, changes) is not None:
                found += 1
                yield changes
            if found == 3:
                break


def row_changes(spec: TrainingRunSpec) -> Changes:
    """What makes of a document that of one of its other rows of hardware, whose spec is given."""
    hardware = spec.accelerator.model_dump(mode="json", by_alias=True, exclude={"host_resources"})
    return {f"spec.accelerator.{name}": value for name, value in hardware.items()} | {
        "spec.place": None,
        "spec.mesh": None if spec.mesh is None else spec.mesh.document(),
        "spec.trainer.microbatches": spec.trainer.microbatches,
    }


def _topologies(row: Any) -> Sequence[str]:
    if row.topologies:
        return row.topologies
    hosts = [count for count in (1, 2, 4, 8, 16, 32) if count <= row.max_hosts]
    of_host = row.devices_per_host or (row.max_devices_per_host,)
    alone = [f"1x{count}" for count in of_host]
    return [*alone, *(f"{count}x{max(of_host)}" for count in hosts if count > 1)]


def changed(run: TrainingRun, changes: Changes) -> TrainingRun | None:
    """The run with changes; None if it is not valid with them."""
    try:
        document = with_overrides(run.document(), [override(path, value) for path, value in changes.items()])
        found = TrainingRun.model_validate(document)
    except (InvalidRun, ValueError):
        return None
    return None if find_problems(found.spec) else found


def _that_may_fit(run: TrainingRun, changes: Changes) -> TrainingRun | None:
    found = changed(run, changes)
    if found is None:
        return None
    there = found.spec.accelerator.row.memory_bytes
    fits = there is None or least_need(found.spec, run_mesh(found.spec)).total_bytes <= USABLE * there
    return found if fits else None


def words(changes: Changes) -> str:
    """A candidate in words."""
    if not changes:
        return "as the document says"
    short = {
        path.rpartition(".")[2]: value for path, value in changes.items() if value not in (1, None, "auto", "standard")
    }
    return ", ".join(f"{name} {value}" for name, value in short.items()) or "microbatches, remat and offload auto"


def tried(
    source: Source,
    candidates: Callable[[bool], Iterable[Changes]],
    *,
    seconds: float,
    by_money: bool = False,
    doing: Callable[[str], None] = lambda what: None,
) -> Tried:
    """Plan the document, and then as many candidates as there is time for, two at a time.

    Args:
        source: The document.
        candidates: The candidates, given whether the document fits as it is.
        seconds: The time. What has not ended then is ended.
        by_money: Rank by cost.
        doing: Called with each candidate before it is planned, as words.
    """
    until, others, begun = time.monotonic() + seconds, list[Changes](), list[Changes]()

    def plan(changes: Changes) -> Row | None:
        begun.append(changes)
        doing(f"{words(changes)}; left: {counted(len(others) - len(begun) + 1, 'candidate') if others else 'others'}")
        left = until - time.monotonic()
        return None if left <= 0 else planned(source, changes, left)

    own = plan({})
    others += candidates(own is not None and own.fits is not False)
    with ThreadPoolExecutor(max(1, min(2, os.cpu_count() or 1))) as threads:
        found = [own, *threads.map(plan, others)]
    rows = [row for row in found if row is not None]
    return Tried(ranked(rows, by_money=by_money), len(found) - len(rows))


def planned(source: Source, changes: Changes, seconds: float) -> Row | None:
    """The plan of the document with changes, by a process of its own: a compiler serves one kind of hardware in a
    process, and one that fails ends no other. None: it did not end in time.
    """
    given = [f"--set={path}={json.dumps(value)}" for path, value in changes.items()]
    command = [sys.executable, "-m", "halcyon.commands.child", str(os.getpid()), "plan", str(source.document), "--json"]
    try:
        ended = subprocess.run(
            [*command, *source.options, *given], capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return None
    lines = ended.stdout.splitlines()
    if lines and lines[-1].startswith("{"):
        return Row(changes, json.loads(lines[-1]))
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    return Row(changes, None, said[-1] if said else f"exit code {ended.returncode}")
