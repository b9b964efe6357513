"""Goodput of save policies over ten thousand preemptions: fixed intervals, the trainer's automatic interval, and
elastic runs.

No hardware and no clock: a run of some slices is stopped at random times (exponential, with one mean for the whole
run). After a stop the capacity is back at once or after a while. Then the run starts, restores, and repeats the steps
since its last commit. The saves are those of the trainer: a save blocks the loop for its copy, is committed some time
later, and the next save does not begin before that commit. `auto` uses the trainer's `best_interval` and learns the
mean from the stops so far. `elastic` continues with one slice less while the capacity is missing, with proportional
throughput, and restarts from a checkpoint when it is back.

    python tests/bench/simulate_preemptions.py [--stops 10000] [--slices 8] [--blocked 1] [--save 60] [--restart 90]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from halcyon.checkpoint.save_schedule import best_interval, mean_time_between_stops

Interval = Callable[[float, int], float]
"""Seconds between saves, from the seconds the run has been up and the stops so far."""


@dataclass(frozen=True)
class Run:
    """The costs of a stop and of a save, in seconds."""

    slices: int
    blocked: float
    save: float
    restart: float
    patience: float
    """How long an elastic run waits for a lost slice before it continues without it."""


def kept(up: float, run: Run, interval: float) -> float:
    """Seconds of committed steps of a run that is stopped after `up` seconds."""
    period = max(interval, run.save)
    saves = int(max(0.0, up - run.save) // period)
    return saves * (period - run.blocked)


def goodput(run: Run, interval: Interval, ups: np.ndarray, waits: np.ndarray, *, elastic: bool) -> float:
    """Productive share of the time; 1 means that all slices step all the time."""
    good = wall = up_seconds = 0.0
    fewer = (run.slices - 1) / run.slices
    for stops, (up, wait) in enumerate(zip(ups.tolist(), waits.tolist(), strict=True)):
        every = interval(up_seconds, stops)
        good += kept(up, run, every)
        up_seconds += up
        wall += up + run.restart
        if not elastic or wait <= run.patience + run.restart:
            wall += wait
            continue
        alone = wait - run.patience - run.restart  # restarted on fewer slices, until the last one is back
        good += kept(alone, run, every) * fewer
        wall += wait + run.restart
    return good / wall


def main() -> None:
    """Print the goodput of each policy, for rare and for frequent stops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=10_000)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--blocked", type=float, default=1.0, help="seconds that a save blocks")
    parser.add_argument("--save", type=float, default=60.0, help="seconds from the start of a save to its commit")
    parser.add_argument(
        "--restart", type=float, default=90.0, help="seconds from a stop to the next step, if there is capacity"
    )
    parser.add_argument(
        "--wait", type=float, default=600.0, help="mean seconds until capacity is back, if it is not back at once"
    )
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds that an elastic run waits for a lost slice"
    )
    arguments = parser.parse_args()
    run = Run(arguments.slices, arguments.blocked, arguments.save, arguments.restart, arguments.patience)

    def auto(up_seconds: float, stops: int) -> float:
        return best_interval(run.blocked, mean_time_between_stops(up_seconds, stops), run.save)

    policies: list[tuple[str, Interval, bool]] = [
        *(
            (f"every {seconds // 60:g} min", lambda up, stops, seconds=seconds: float(seconds), False)
            for seconds in (60, 300, 900, 3600)
        ),
        ("auto", auto, False),
        ("auto, elastic", auto, True),
    ]
    means = (900, 3600, 6 * 3600, 24 * 3600)
    table = Table("policy", *(f"a stop every {mean / 3600:g} h" for mean in means), box=SIMPLE_HEAD)
    for name, interval, elastic in policies:
        shares: list[str] = []
        for mean in means:
            random = np.random.default_rng(mean)
            ups = random.exponential(mean, arguments.stops)
            waits = random.exponential(arguments.wait, arguments.stops) * (random.random(arguments.stops) < 0.5)
            shares.append(f"{goodput(run, interval, ups, waits, elastic=elastic):.1%}")
        table.add_row(name, *shares)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
