"""One run on 16 to 16,384 hosts: the time of a restart, what bounds it, and what each mechanism of recovery gives.

Nothing runs. Times are formulas with measured, published or assumed constants; each is an option. The log of failures
is random, and the same for all mechanisms. A run stops at each failure, waits for hosts if the free ones are used up,
starts, restores, and does the steps since its last checkpoint again. Rate and kinds of the failures are those of Llama
3 (Grattafiori et al. 2024, section 3.3.4 and table 5).

    python docs/simulate_scale.py [--page docs/scale.md] [--days 54]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from halcyon.checkpoint.layout import chunk_limit
from halcyon.checkpoint.save_schedule import best_interval
from halcyon.host.agent.lines import SILENCE_SECONDS
from halcyon.host.agent.supervisor import STOP_SECONDS

sys.path.append(str(Path(__file__).parents[1]))

from tests.page_block import write_block

DAY = 86_400.0
SIZES = ((16, 8e9), (64, 70e9), (256, 70e9), (2048, 405e9), (4096, 405e9), (16_384, 2e12))
"""Hosts, and parameters of a model of that size."""
Mechanism = Literal["kinds", "in place", "silent nodes", "memory tier", "one pod", "spares"]
MECHANISMS: dict[Mechanism, str] = {
    "kinds": "none, but kinds of stops differ",
    "in place": "in place",
    "silent nodes": "silent nodes",
    "memory tier": "memory tier",
    "one pod": "one pod for a broken device",
    "spares": "spares",
}
"""In the order in which the table adds them, with their names there."""
EVERY = frozenset[Mechanism](MECHANISMS)
Kind = Literal["planned", "process", "broken", "machine"]
"""What is lost: nothing yet, a process, a process whose device stays broken, or a machine, which then says nothing."""


@dataclass(frozen=True)
class Costs:
    """Constants, in seconds unless they say otherwise."""

    notice: float = 0.1
    """Until a process that ends is missed: its sockets close. Measured (docs/demo.md)."""
    node: float = 30.0
    """Until a machine that says nothing is missed and its pod replaced, without supervisors. Assumed."""
    silence: float = SILENCE_SECONDS
    """The same with supervisors."""
    end: float = STOP_SECONDS
    """Until the other processes have ended: supervisors kill them then."""
    pods_a_second: float = 100.0
    """Pods that a control plane makes. Assumed; measured on two processors, beside all else: 16."""
    job_pause: float = 10.0
    """The pause of the Job controller before it replaces one pod."""
    guard: float = 1.0
    """From the decision that a pod leaves its node to the node of the next one, without the Job's pause. Measured."""
    container: float = 20.0
    """From a pod with a node to a process that joins: image on the node, imports. Assumed; the demo's take 2 s."""
    meet_a_host: float = 0.00015
    """A meeting of supervisors: their leader's processor. Measured with 16,384."""
    join: float = 2.0
    """Assumed."""
    join_a_host: float = 0.0005
    """All processes meet at one coordinator: its processor. Measured with 4,096."""
    first_step: float = 30.0
    """With a kept program: devices, their connections, the step. Assumed; the demo's takes 0.4 s."""
    step: float = 5.0
    """The shortest time between two snapshots. Assumed."""
    repair: float = 3600.0
    """Until a failed host is back or replaced, if no free one is left. Assumed."""
    free: float = 0.01
    """Free hosts, as a share. Assumed."""
    stops_of_host: float = 466 / 54 / 2048
    """Failures of a host in a day: Llama 3's."""
    stays: float = 0.5
    """Share of failed devices that fail again in the next process. Assumed."""
    shared: float = 0.05
    """Share of failures that take many hosts at once. Assumed."""
    together: int = 16
    """Those hosts: a rack."""
    devices: int = 8
    state_hosts: int = 256
    """Hosts over which the state is divided, such as those of a slice; the others hold the same."""
    exchange: float = 25.0
    """Gigabytes that a host receives in a second of the others, over the network between accelerators. Assumed."""
    copy: float = 32.0
    hash: float = 13.6
    read: float = 5.1
    write: float = 3.3
    """Gigabytes of a host in a second: between device and host, SHA-256 by eight threads, from and to the store."""
    store: float = 2000.0
    requests: float = 1000.0
    """What the whole store takes in a second: gigabytes, and objects. It gives five times as many objects."""

    def kinds(self) -> dict[Kind, float]:
        """Shares of the kinds among the 419 interruptions of Llama 3 that were not planned."""
        software, devices = 54 + 7 + 2, 148 + 72 + 19 + 17 + 6 + 6
        broken = devices * self.stays
        return {
            "process": (software + devices - broken) / 419,
            "broken": broken / 419,
            "machine": (419 - software - devices) / 419,
        }


@dataclass(frozen=True)
class Run:
    """The times of one run of a model on some hosts, with some mechanisms."""

    hosts: int
    parameters: float
    costs: Costs
    has: frozenset[Mechanism] = frozenset()

    @property
    def mean(self) -> float:
        """Mean time between stops."""
        return DAY / (self.hosts * self.costs.stops_of_host)

    @property
    def share(self) -> float:
        """Gigabytes of the state that a host saves: float32 parameters and two moments."""
        return self.parameters * 12 / 1e9 / self.hosts

    @property
    def blocked(self) -> float:
        """Time for which a save or a snapshot blocks the steps."""
        return self.share / self.costs.copy

    def _files(self) -> float:
        """A stacked Llama has 36 arrays."""
        arrays = min(self.hosts, self.costs.state_hosts) * self.costs.devices * 36
        return arrays * max(1.0, self.parameters * 12 / arrays / chunk_limit(int(self.parameters * 12)))

    def _through(self, speed: float, requests: float) -> dict[str, float]:
        """Times of what a save or a restore does at once."""
        whole = self.share * self.hosts / self.costs.store
        hashed = self.share / self.costs.hash
        return {"network": self.share / speed, "store": whole, "hash": hashed, "requests": self._files() / requests}

    @property
    def save(self) -> dict[str, float]:
        """Time of a save by what may bound it."""
        return self._through(self.costs.write, self.costs.requests)

    @property
    def snapshot(self) -> float:
        """Until a snapshot is whole in the memory of another host."""
        return self.share * (1 / self.costs.copy + 1 / self.costs.hash + 1 / self.costs.exchange)

    def intervals(self) -> tuple[float, float]:
        """Times between two saves, and between two snapshots in memory."""
        save = max(self.save.values())
        snapshots = max(best_interval(self.blocked, self.mean, self.snapshot), self.blocked / 0.01, self.costs.step)
        return max(best_interval(self.blocked, self.mean, save), save), snapshots

    def keeps_memory(self, kind: Kind, together: int = 1) -> bool:
        """Whether some host still has each share in its memory."""
        if together > 1 and self.hosts <= self.costs.state_hosts:
            return False
        return "memory tier" in self.has and (kind != "broken" or "one pod" in self.has)

    def parts(self, kind: Kind, together: int = 1) -> dict[str, float]:
        """The parts of a restart, from a stop to the next step, if there are hosts."""
        costs, alone = self.costs, "in place" in self.has
        kind = kind if "kinds" in self.has else "machine"
        if kind == "broken":  # it is started again first, and fails
            rest = self if "one pod" in self.has else dataclasses.replace(self, has=self.has - {"in place", "spares"})
            first, second = self.parts("process"), rest.parts("planned")
            second["restore"] = self._restore(in_memory=self.keeps_memory(kind))
            second["pods"] += costs.guard if "one pod" in self.has else 0.0
            return {name: first[name] + second[name] for name in first}
        new = (0 if kind == "process" or "spares" in self.has else together) if alone else self.hosts
        notice: dict[Kind, float] = {
            "machine": costs.silence if "silent nodes" in self.has else costs.node,
            "planned": 0,
        }
        return {
            "notice": notice.get(kind, costs.notice),
            "end": costs.end if alone else 0.0,
            "pods": (costs.job_pause if alone and new else 0.0) + new / costs.pods_a_second,
            "container": costs.container if new else 0.0,
            "join": costs.join + (costs.join_a_host + (costs.meet_a_host if alone else 0.0)) * self.hosts,
            "restore": self._restore(in_memory=self.keeps_memory(kind, together)),
            "first step": costs.first_step,
        }

    def _restore(self, *, in_memory: bool) -> float:
        costs, holders = self.costs, min(self.hosts, self.costs.state_hosts)
        here = self.snapshot if in_memory else max(self._through(costs.read, 5 * costs.requests).values())
        return here + (self.share * self.hosts / holders / costs.exchange if holders < self.hosts else 0.0)

    def restart(self, kind: Kind, together: int = 1) -> float:
        """From a stop to the next step, if there are hosts."""
        return sum(self.parts(kind, together).values())


@dataclass
class Account:
    """Seconds of a simulated run."""

    kept: float = 0.0
    lost: float = 0.0
    restarts: float = 0.0
    waits: float = 0.0
    saves: float = 0.0
    stops: int = 0

    @property
    def goodput(self) -> float:
        """Share of the time that is in steps which are kept."""
        return self.kept / (self.kept + self.lost + self.restarts + self.waits + self.saves)


def simulated(run: Run, days: float, seed: int = 0) -> Account:
    """A run under a random log of failures, with saves at the interval that the trainer chooses."""
    found, now, broken = Account(), 0.0, []  # when each host that is being repaired is back
    saves, snapshots = run.intervals()
    blocked = run.blocked / saves + (run.blocked / snapshots if "memory tier" in run.has else 0.0)
    for up, kind, together in _failures(run, seed):
        if now >= days * DAY:
            break
        memory = run.keeps_memory(kind, together)
        whole, every = (run.snapshot, snapshots) if memory else (max(run.save.values()), saves)
        done = up if kind == "planned" else max(0.0, up - whole) // every * every
        found.kept += done * (1 - blocked)
        found.saves += done * blocked
        found.lost += up - done
        now += up
        broken = [back for back in broken if back > now]
        if kind in ("broken", "machine") or (kind == "process" and "kinds" not in run.has):
            broken += [now + run.costs.repair] * together
        missing = len(broken) - int(run.costs.free * run.hosts)
        wait = sorted(broken)[missing - 1] - now if missing > 0 else 0.0
        down = run.restart(kind, together)
        found.restarts, found.waits, found.stops = found.restarts + down, found.waits + wait, found.stops + 1
        now += down + wait
    return found


def _failures(run: Run, seed: int) -> Iterator[tuple[float, Kind, int]]:
    """The time until each failure, its kind, and how many hosts it takes."""
    noise, kinds = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    shares = run.costs.kinds()
    while True:
        up = float(noise.exponential(run.mean))
        if noise.random() < 47 / 466:  # planned, such as upgrades: no step is lost
            yield up, "planned", 1
        elif noise.random() < run.costs.shared:
            yield up, "machine", run.costs.together
        else:
            yield up, list(shares)[kinds.choice(len(shares), p=list(shares.values()))], 1


def rows(costs: Costs, days: float) -> list[str]:
    """The tables, as Markdown."""
    lines = [
        "| hosts | parameters | stops a day | restart, none | all | longest part | save | bound by | goodput | all |",
        "|---:|---:|---:|---:|---:|---|---:|---|---:|---:|",
    ]
    for hosts, size in SIZES:
        run, bare = Run(hosts, size, costs, EVERY), Run(hosts, size, costs, frozenset({"kinds"}))
        one, other = (simulated(each, max(days, 400 * run.mean / DAY)) for each in (bare, run))
        parts, bound = run.parts("machine"), max(run.save, key=lambda name: run.save[name])
        longest = max(parts, key=lambda name: parts[name])
        lines.append(
            f"| {hosts:,} | {size / 1e9:,.0f} B | {DAY / run.mean:.2g} | {one.restarts / one.stops:,.0f} s | "
            f"{other.restarts / other.stops:,.0f} s | {longest} {parts[longest]:,.0f} s | {run.save[bound]:,.0f} s | "
            f"{bound} | {one.goodput:.1%} | {other.goodput:.1%} |"
        )
    for hosts, size in SIZES[-2:]:
        lines += [
            "",
            f"The time of a restart on {hosts:,} hosts, and the shares of all time, as mechanisms are added:",
            "",
        ]
        lines += [
            "| mechanism | process ends | device breaks | silent machine | mean | in restarts | repeated | goodput |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        has = frozenset[Mechanism]()
        for name in (None, *MECHANISMS):
            if name:
                has |= frozenset[Mechanism]((name,))
            run = Run(hosts, size, costs, has)
            found = simulated(run, days)
            whole = found.kept / found.goodput
            times = (*map(run.restart, ("process", "broken", "machine")), found.restarts / found.stops)
            lines.append(
                f"| {MECHANISMS[name] if name else 'none, and each stop is a silent machine'} | "
                f"{' | '.join(f'{time:.0f} s' for time in times)} | "
                f"{found.restarts / whole:.1%} | {found.lost / whole:.1%} | {found.goodput:.1%} |"
            )
    lines += ["", "All mechanisms, by the first step, which nobody has measured on many hosts:", ""]
    lines += [
        "| first step | restart of 64 hosts | of 4,096 | of 16,384 | goodput of 16,384 |",
        "|---:|---:|---:|---:|---:|",
    ]
    for seconds in (30.0, 10.0, 3.0):
        runs = [Run(*size, dataclasses.replace(costs, first_step=seconds), EVERY) for size in (SIZES[1], *SIZES[-2:])]
        found = [simulated(run, max(days, 400 * run.mean / DAY)) for run in runs]
        cells = [f"{one.restarts / one.stops:.0f} s" for one in found]
        lines.append(f"| {seconds:.0f} s | {' | '.join(cells)} | {found[-1].goodput:.1%} |")
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=54.0, help="least length of a run")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    for field in dataclasses.fields(Costs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    days, page = options.pop("days"), options.pop("page")
    text = "\n".join(rows(Costs(**options), days))
    if page is None:
        sys.stdout.write(f"{text}\n")
    else:
        write_block(page, "hosts", text)


if __name__ == "__main__":
    main()
