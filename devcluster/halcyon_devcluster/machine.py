"""How slow this machine is now: the factor by which every limit grows.

Limits are written for the reference machine: two quiet cores. On a machine whose cores are slower, busy or lent to others the same work
takes longer, and a limit that is right on the reference machine fails there without a fault in the code. A fixed computation on two cores
at once shows how much longer: the factor is its time here divided by its time on the reference machine, and at least 1.

A process that starts many others measures once and passes the factor to them in `HALCYON_MACHINE_FACTOR`; any other process measures when
it first needs a limit. A wait whose limit has passed measures again before it gives up (`waiting.holds_within`), because a machine that
was quiet at the start may be busy now.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from statistics import mean

VARIABLE = "HALCYON_MACHINE_FACTOR"
REFERENCE_SECONDS = 0.25
"""What one round of the computation takes on a quiet core of the reference machine."""
LARGEST_FACTOR = 20.0
"""A limit grows no further: a hang must end some day."""

_CORES = 2
_ROUND = """\
import time
began, total = time.perf_counter(), 0
for number in range({rounds} * 2_500_000):
    total += number * number % 7
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of all cores since the machine started.

    Attributes:
        total: All of them.
        idle: Nobody wanted them.
        stolen: Somebody wanted them, and the host gave them to another machine.
    """

    total: float
    idle: float
    stolen: float

    def since(self, earlier: "ProcessorTime") -> "ProcessorTime":
        """What has passed between two readings."""
        return ProcessorTime(self.total - earlier.total, self.idle - earlier.idle, self.stolen - earlier.stolen)

    @property
    def stolen_share(self) -> float:
        """Share of the time that was stolen, from 0 to 1."""
        return self.stolen / self.total if self.total > 0 else 0.0


@dataclass(frozen=True)
class Reading:
    """One look at the machine.

    Attributes:
        factor: How many times as long as on the reference machine work takes here; at least 1.
        stolen: Share of the processor's time that was stolen meanwhile, from 0 to 1.
        cores: Processors of this machine.
    """

    factor: float
    stolen: float
    cores: int

    def __str__(self) -> str:
        return f"{self.factor:.2f} times as slow as two quiet cores of the reference machine, {self.stolen:.0%} of its processor stolen"


def parse_processor_time(text: str, ticks: int = 100) -> ProcessorTime:
    """Read the first line of /proc/stat. Pure.

    Raises:
        ValueError: it is not the line of all processors.
    """
    name, _, numbers = text.partition("\n")[0].partition(" ")
    fields = numbers.split()
    if name != "cpu" or len(fields) < 8:
        raise ValueError("this is not the text of /proc/stat")
    user, nice, system, idle, iowait, irq, softirq, steal = (int(field) / ticks for field in fields[:8])
    return ProcessorTime(user + nice + system + idle + iowait + irq + softirq + steal, idle + iowait, steal)


def processor_time() -> ProcessorTime:
    """What the kernel has counted; nothing where it does not tell (on macOS)."""
    try:
        return parse_processor_time(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    except FileNotFoundError:
        return ProcessorTime(0.0, 0.0, 0.0)


def factor_of(seconds: list[float], rounds: int = 1) -> float:
    """The factor by the times of the computation on each core. Pure."""
    return min(max(mean(seconds) / (rounds * REFERENCE_SECONDS), 1.0), LARGEST_FACTOR)


def measure(rounds: int = 1) -> Reading:
    """Do the computation on two cores at once, `rounds` times a quarter of a second."""
    before = processor_time()
    command = [sys.executable, "-I", "-S", "-c", _ROUND.format(rounds=rounds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(_CORES)]
    seconds = [float(process.communicate()[0]) for process in started]
    return Reading(factor_of(seconds, rounds), processor_time().since(before).stolen_share, os.cpu_count() or 1)


def given_factor(environ: Mapping[str, str]) -> float | None:
    """The factor that whoever started this process has measured, if so.

    Raises:
        ValueError: the variable holds no number of at least 1.
    """
    text = environ.get(VARIABLE)
    if not text:
        return None
    factor = float(text)
    if not factor >= 1:
        raise ValueError(f"{VARIABLE} is {text}: set it to a number of at least 1, or leave it out to have it measured")
    return min(factor, LARGEST_FACTOR)


@cache
def factor() -> float:
    """The factor of this process: as given by who started it, else measured now."""
    given = given_factor(os.environ)
    return measure().factor if given is None else given


def limit(seconds: float) -> int:
    """A limit for this machine, in whole seconds, of one that is right on the reference machine."""
    return ceil(seconds * factor())
