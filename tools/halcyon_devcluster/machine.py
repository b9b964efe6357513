"""Measures how slow this machine is now: the factor by which every time limit is multiplied.

Limits are written for the reference machine: two idle cores. On a machine with slower, busy or shared cores the same
work takes longer, and a limit that suits the reference machine would fail there without a fault in the code. A fixed
computation on two cores at once measures this: the factor is its time here divided by its time on the reference
machine, and at least 1.

A process that starts many others measures once and passes the factor to them in `HALCYON_MACHINE_FACTOR`. Any other
process measures when it first needs a limit. A wait whose limit has passed measures again before it fails
(`waiting.holds_within`), because the machine may have become busy since.
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
"""Duration of one round of the computation on an idle core of the reference machine."""
LARGEST_FACTOR = 20.0
"""The largest factor: it bounds the time until a hang is an error."""

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
    """Processor seconds of all cores since the machine started.

    Attributes:
        total: All seconds.
        idle: Seconds without work.
        stolen: Seconds with work that the host gave to another virtual machine.
    """

    total: float
    idle: float
    stolen: float

    def since(self, earlier: "ProcessorTime") -> "ProcessorTime":
        """Return the seconds between an earlier value and this one."""
        return ProcessorTime(self.total - earlier.total, self.idle - earlier.idle, self.stolen - earlier.stolen)

    @property
    def stolen_share(self) -> float:
        """Share of the time that was stolen, from 0 to 1."""
        return self.stolen / self.total if self.total > 0 else 0.0


@dataclass(frozen=True)
class Reading:
    """One measurement of the machine.

    Attributes:
        factor: Duration of work here divided by its duration on the reference machine; at least 1.
        stolen: Share of the processor time that was stolen during the measurement, from 0 to 1.
        cores: Number of cores of this machine.
    """

    factor: float
    stolen: float
    cores: int

    def __str__(self) -> str:
        return (
            f"{self.factor:.2f} times as slow as two quiet cores of the reference machine, {self.stolen:.0%} of its "
            "processor stolen"
        )


def parse_processor_time(text: str, ticks: int = 100) -> ProcessorTime:
    """Read the first line of /proc/stat. Pure.

    Raises:
        ValueError: the first line is not that of all processors together.
    """
    name, _, numbers = text.partition("\n")[0].partition(" ")
    fields = numbers.split()
    if name != "cpu" or len(fields) < 8:
        raise ValueError("this is not the text of /proc/stat")
    user, nice, system, idle, iowait, irq, softirq, steal = (int(field) / ticks for field in fields[:8])
    return ProcessorTime(user + nice + system + idle + iowait + irq + softirq + steal, idle + iowait, steal)


def processor_time() -> ProcessorTime:
    """Return the kernel's counters; zeros where it has none (macOS)."""
    try:
        return parse_processor_time(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))
    except FileNotFoundError:
        return ProcessorTime(0.0, 0.0, 0.0)


def factor_of(seconds: list[float], rounds: int = 1) -> float:
    """Return the factor from the times of the computation on each core. Pure."""
    return min(max(mean(seconds) / (rounds * REFERENCE_SECONDS), 1.0), LARGEST_FACTOR)


def measure(rounds: int = 1) -> Reading:
    """Measure with the computation on two cores at once, `rounds` rounds of a quarter of a second each."""
    before = processor_time()
    command = [sys.executable, "-I", "-S", "-c", _ROUND.format(rounds=rounds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(_CORES)]
    seconds = [float(process.communicate()[0]) for process in started]
    return Reading(factor_of(seconds, rounds), processor_time().since(before).stolen_share, os.cpu_count() or 1)


def given_factor(environ: Mapping[str, str]) -> float | None:
    """Return the factor from `HALCYON_MACHINE_FACTOR`, which the starting process has measured; None if it is not set.

    Raises:
        ValueError: the variable is not a number of at least 1.
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
    """Return the factor of this process: from the environment, or measured at the first call."""
    given = given_factor(os.environ)
    return measure().factor if given is None else given


def limit(seconds: float) -> int:
    """Convert a limit for the reference machine to one for this machine, in whole seconds."""
    return ceil(seconds * factor())
