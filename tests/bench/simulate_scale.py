"""One run on 16 to 16,384 hosts: the time of a restart and of a save by part, what bounds each, and the goodput under
failures.

Nothing runs. Times are formulas with measured or published constants; each is an option. The failures are a random log:
single hosts fail, and now and then what many hosts share, such as a switch. A run stops at each failure, waits for
hosts if the spare ones are used up, starts, restores, and does the steps since its last commit again. `--llama` takes
the rate of Llama 3's log (Grattafiori et al. 2024, section 3.3.4: 466 interruptions of 16,384 H100 in 54 days).

    python tests/bench/simulate_scale.py [--page docs/scale.md] [--days 54]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halcyon.checkpoint.layout import chunk_limit
from halcyon.checkpoint.save_schedule import best_interval
from halcyon.commands.planning.estimate import goodput as closed_form

sys.path.append(str(Path(__file__).parents[2]))

from tests.bench.checkpoint_scale import BYTES_A_PARAMETER, Place, times
from tests.page_block import write_block

DAY = 86_400.0
SIZES = ((16, 8e9), (256, 70e9), (4096, 405e9), (16_384, 2e12))
"""Hosts, and parameters of a model of that size."""
LLAMA = (2048, 405e9, 466 / 54)
"""Hosts, parameters, and interruptions a day of Llama 3's largest training."""
_OF_PLANNED = 47 / 466
"""Share of the interruptions that were planned, such as upgrades: they lose no step."""


@dataclass(frozen=True)
class Costs:
    """Constants, in seconds unless they say otherwise."""

    detect: float = 30.0
    """Until the processes of a failed host are missed: the lifeline answers within ten seconds, a lost node takes
    longer."""
    pods_a_second: float = 100.0
    """Pods that a control plane makes. Measured on two processors, beside all else: 16 (docs/scale.md)."""
    container: float = 20.0
    """From a pod with a node to a process that joins: image on the node, imports (`bench_start.py`)."""
    join: float = 2.0
    join_a_host: float = 0.001
    """All processes meet at one coordinator."""
    first_step: float = 30.0
    """With a kept program."""
    repair: float = 3600.0
    """Until a failed host is back or replaced, if no spare one is left."""
    spares: float = 0.01
    """Spare hosts, as a share."""
    hosts_a_day: float = 466 / 54 / 2048
    """Failures of a host in a day: Llama 3's."""
    shared: float = 0.05
    """Share of failures that take many hosts at once."""
    together: int = 16
    """Those hosts: a rack."""
    devices: int = 8
    state_hosts: int = 256
    """Hosts over which the state is divided, such as those of a slice; the others hold the same."""
    exchange_gigabytes: float = 25.0
    """What a host receives in a second of the others, over the network between accelerators."""


@dataclass(frozen=True)
class Run:
    """The times of one run."""

    hosts: int
    parts: dict[str, float]
    """Of a restart."""
    blocked: float
    save: float
    save_bound: str
    files: float
    manifest_megabytes: float

    @property
    def restart(self) -> float:
        """From a stop to the next step, if there are hosts."""
        return sum(self.parts.values())


def run_of(hosts: int, parameters: float, costs: Costs) -> Run:
    """The times of a run of a model on some hosts."""
    place = Place(32, 13.6, 3.3, 5.1, 2000, 1000, chunk_limit(int(parameters * BYTES_A_PARAMETER)))
    found = times(parameters, hosts, costs.devices, place, state_hosts=costs.state_hosts)
    holders, state = min(hosts, costs.state_hosts), parameters * BYTES_A_PARAMETER / 1e9
    exchange = state / holders / costs.exchange_gigabytes if holders < hosts else 0.0
    parts = {
        "detect": costs.detect,
        "pods": hosts / costs.pods_a_second,
        "container": costs.container,
        "join": costs.join + costs.join_a_host * hosts,
        "restore": found.restore + exchange,
        "first step": costs.first_step,
    }
    return Run(hosts, parts, found.copy, found.save, found.save_bound, found.files, found.manifest_megabytes)


@dataclass(frozen=True)
class Account:
    """Seconds of a simulated run."""

    kept: float
    lost: float
    restarts: float
    waits: float
    saves: float
    stops: int

    @property
    def goodput(self) -> float:
        """Share of the time that is in steps which are kept."""
        return self.kept / (self.kept + self.lost + self.restarts + self.waits + self.saves)


def simulated(run: Run, costs: Costs, days: float, stops_a_day: float, seed: int = 0) -> Account:
    """A run under a random log of failures, with saves at the interval that the trainer chooses."""
    noise = np.random.default_rng(seed)
    interval = max(best_interval(run.blocked, DAY / stops_a_day, run.save), run.save)
    now, kept, lost, restarts, waits, saves, stops = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    broken: list[float] = []  # when each host that is being repaired is back
    end = days * DAY
    while now < end:
        up = float(noise.exponential(DAY / stops_a_day))
        planned = noise.random() < _OF_PLANNED
        count = int(max(0.0, up - run.save) // interval)
        done = up if planned else count * interval
        kept += done - min(done, count * run.blocked)
        saves += min(done, count * run.blocked)
        lost += up - done
        now, stops = now + up, stops + 1
        broken = [back for back in broken if back > now]
        if not planned:
            broken += [now + costs.repair] * (costs.together if noise.random() < costs.shared else 1)
        missing = len(broken) - int(costs.spares * run.hosts)
        wait = sorted(broken)[missing - 1] - now if missing > 0 else 0.0
        restarts, waits, now = restarts + run.restart, waits + wait, now + run.restart + wait
    return Account(kept, lost, restarts, waits, saves, stops)


def rows(costs: Costs, days: float) -> list[str]:
    """The tables, as Markdown."""
    lines = [
        "| hosts | parameters | stops a day | restart | longest part of it | save | bound by | files | manifest | goodput | by formula |",
        "|---:|---:|---:|---:|---|---:|---|---:|---:|---:|---:|",
    ]
    cases = [(hosts, size, hosts * costs.hosts_a_day) for hosts, size in SIZES]
    cases.insert(2, LLAMA)
    for hosts, size, stops in cases:
        run = run_of(hosts, size, costs)
        account = simulated(run, costs, max(days, 400 / stops), stops)
        formula = closed_form(
            stops_per_day=stops, blocked_seconds=run.blocked, save_seconds=run.save, down_seconds=run.restart
        ).goodput
        longest = max(run.parts, key=lambda name: run.parts[name])
        lines.append(
            f"| {hosts:,} | {size / 1e9:,.0f} B | {stops:.2g} | {run.restart:,.0f} s | {longest} {run.parts[longest]:,.0f} s | "
            f"{run.save:,.0f} s | {run.save_bound} | {run.files:,.0f} | {run.manifest_megabytes:,.0f} MB | "
            f"{account.goodput:.1%} | {formula:.1%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=54.0, help="least length of a run")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    for field in dataclasses.fields(Costs):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    options = parser.parse_args()
    costs = Costs(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Costs)})
    text = "\n".join(rows(costs, options.days))
    if options.page is None:
        sys.stdout.write(f"{text}\n")
    else:
        write_block(options.page, "hosts", text)


if __name__ == "__main__":
    main()
