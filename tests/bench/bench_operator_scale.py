"""What a thousand runs cost one operator, and how soon it writes of what happens to one of them.

    python tests/bench/bench_operator_scale.py                      # 100, 300 and 1,000 runs of 5 pods each, with kwok: some twenty minutes
    python tests/bench/bench_operator_scale.py --runs 100           # one of them
    python tests/bench/bench_operator_scale.py --page docs/scale.md # also write the tables into the page

The development cluster is started and taken down if it is not up. Times and counts come from the API server's own audit log.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from halcyon_devcluster import Cluster
from halcyon_devcluster.audit import AuditLog, Request
from tests.bench.fleet import PODS_A_RUN, Fleet, bench_cluster, cluster_options, fleet, until_async, write_between
from tests.cluster.operators import OperatorProcess

REST_SECONDS = 45
CHANGES = 60


def used(pid: int) -> tuple[float, float]:
    """Processor seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Costs:
    """What one kind of change cost: requests of the operator by (verb, resource), and the seconds to its first status."""

    changes: int
    requests: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    seconds: list[float] = field(default_factory=list[float])

    def each(self, *verbs: str, resource: str = "") -> float:
        """Requests of some verbs for each change."""
        return sum(count for (verb, what), count in self.requests.items() if verb in verbs and resource in ("", what)) / self.changes


@dataclass
class Figures:
    """All figures of one number of runs."""

    runs: int
    resident: float = 0.0
    core: float = 0.0
    peak: float = 0.0
    rest: Costs = field(default_factory=lambda: Costs(1))
    start_ready: float = 0.0
    start_settled: float = 0.0
    all_applied: float = 0.0
    kinds: dict[str, Costs] = field(default_factory=dict[str, Costs])


class Bench:
    """One fleet that grows, and the operator that looks after it."""

    def __init__(self, cluster: Cluster, fleet: Fleet, folder: Path) -> None:
        self.cluster, self.fleet, self.folder = cluster, fleet, folder
        self.audit = AuditLog(cluster.paths.audit_log)
        self.names: list[str] = []
        self.operator = self._start()

    def _start(self) -> OperatorProcess:
        return OperatorProcess.start("bench", self.cluster.kubeconfig, self.fleet.namespace, self.folder, lease="halcyon-operator")

    def requests(self) -> list[Request]:
        """What was asked for in the fleet's namespace since the last call."""
        return [request for request in self.audit.new() if request.namespace == self.fleet.namespace]

    async def settled(self) -> bool:
        """Whether every run has its pods, and the operator nothing to do."""
        samples = await asyncio.to_thread(self.operator.samples)
        if samples.get(("halcyon_operator_queue_depth", ()), 1) > 0:
            return False
        statuses = await self.fleet.statuses()
        if any(status.get("phase") not in ("Starting", "Restarting") for status in statuses.values()) or len(statuses) != len(self.names):
            return False
        pods = await self.fleet.running_pods()
        return sum(map(len, pods.values())) == PODS_A_RUN * len(self.names)

    async def grow(self, runs: int) -> Figures:
        """Have so many runs, and measure."""
        figures = Figures(runs)
        more = [f"run-{number}" for number in range(len(self.names), runs)]
        self.names += more
        began = time.monotonic()
        self.requests()
        await self.fleet.apply_all(more)
        await until_async(self.settled, 900, f"{runs} runs with their pods")
        figures.all_applied = time.monotonic() - began
        figures.kinds["made"] = self.costs(len(more))
        await self.rest(figures)
        await self.change(figures, "edited, live field", 5.0, lambda name: self.fleet.edit(name, ttlSecondsAfterFinished=runs))
        pods = await self.fleet.running_pods()
        await self.change(figures, "preempted", 2.0, lambda name: self.fleet.evict(pods[name][0]["metadata"]["name"]))
        await self.start(figures)
        return figures

    async def rest(self, figures: Figures) -> None:
        """Processor, memory and requests while nothing happens."""
        await asyncio.sleep(15)
        self.requests()
        before, _ = used(self.operator.process.pid)
        await asyncio.sleep(REST_SECONDS)  # what is measured is that nothing happens
        after, figures.resident = used(self.operator.process.pid)
        figures.core = (after - before) / REST_SECONDS
        figures.rest = self.costs(1)

    async def change(self, figures: Figures, kind: str, a_second: float, change: object) -> None:
        """Do something to runs one after the other, and see what it leads to."""
        self.requests()
        chosen = self.names[:CHANGES]
        for name in chosen:
            await change(name)  # type: ignore[operator]
            await asyncio.sleep(1 / a_second)
        await until_async(self.settled, 300, f"runs {kind}")
        figures.kinds[kind] = self.costs(len(chosen))

    async def start(self, figures: Figures) -> None:
        """Stop the operator, and start it with all the runs there."""
        self.operator.stop()
        began = time.monotonic()
        self.operator = self._start()
        await until_async(self._is_ready, 120, "an operator that is ready", 0.1)
        figures.start_ready = time.monotonic() - began
        await until_async(self._has_looked, 300, "an operator that has looked at all runs", 0.2)
        figures.start_settled = time.monotonic() - began
        _, figures.peak = used(self.operator.process.pid)

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(lambda: self.operator.ready)

    async def _has_looked(self) -> bool:
        samples = await asyncio.to_thread(self.operator.samples)
        known = sum(value for (name, _), value in samples.items() if name == "halcyon_operator_runs")
        return known == len(self.names) and samples[("halcyon_operator_queue_depth", ())] == 0

    def costs(self, changes: int) -> Costs:
        """What the log has since the last call: the operator's requests, and the time from each change to its first status."""
        costs, since = Costs(changes), dict[str, float]()
        for request in sorted(self.requests(), key=lambda request: request.at):
            if request.agent.startswith("halcyon-operator"):
                if request.resource != "leases" and request.verb != "watch":
                    costs.requests[request.verb, request.resource] += 1
                if request.resource == "trainingruns/status" and request.code == 200 and request.name in since:
                    costs.seconds.append(request.at.timestamp() - since.pop(request.name))
            elif request.agent == "halcyon-bench" and request.write and request.resource == "trainingruns":
                since[request.name] = request.at.timestamp()
        return costs


def table(header: str, rows: list[list[str]]) -> str:
    """A table in Markdown."""
    rule = "|" + "---|" * (header.count("|") - 1)
    return "\n".join([header, rule, *("| " + " | ".join(row) + " |" for row in rows)])


def percentile(seconds: list[float], share: float) -> str:
    """A percentile in seconds, or a dash where nothing was measured."""
    if len(seconds) < 2:
        return "-"
    return f"{statistics.quantiles(seconds, n=100, method='inclusive')[round(share * 100) - 1]:.2f} s"


def page(all_figures: list[Figures]) -> str:
    """The tables."""
    rest = [
        [
            f"{figures.runs:,}",
            f"{figures.runs * PODS_A_RUN:,}",
            f"{figures.resident:.0f} MiB",
            f"{figures.core:.3f}",
            f"{figures.rest.each('get', 'list') / REST_SECONDS:.1f}",
            f"{figures.rest.each('create', 'patch', 'delete', 'update') / REST_SECONDS:.1f}",
            percentile(figures.kinds["edited, live field"].seconds, 0.50),
            percentile(figures.kinds["edited, live field"].seconds, 0.99),
            f"{figures.start_ready:.1f} s",
            f"{figures.start_settled:.1f} s",
        ]
        for figures in all_figures
    ]
    first = table(
        "| runs | pods | memory at rest | cores at rest | reads/s at rest | writes/s at rest | event to write, median | 99th percentile "
        "| start: watches filled | start: all looked at |",
        rest,
    )
    rows = [
        [
            kind,
            f"{figures.runs:,}",
            f"{costs.each('patch', resource='trainingruns/status'):.1f}",
            f"{costs.each('create', resource='jobsets') + costs.each('create', resource='configmaps'):.1f}",
            f"{costs.each('delete'):.1f}",
            f"{costs.each('create', resource='events'):.1f}",
            f"{costs.each('get', 'list'):.1f}",
            percentile(costs.seconds, 0.99),
        ]
        for figures in all_figures
        for kind, costs in figures.kinds.items()
    ]
    second = table("| a run is | among | status | created | deleted | Events | reads | first status, 99th percentile |", rows)
    made = table(
        "| runs | all of them applied, until every pod runs |", [[f"{one.runs:,}", f"{one.all_applied:.0f} s"] for one in all_figures]
    )
    return f"{first}\n\nRequests of the operator for each change of a run:\n\n{second}\n\n{made}\n"


async def measure(cluster: Cluster, sizes: list[int], folder: Path) -> list[Figures]:
    """All figures, of a fleet that grows from one size to the next."""
    found: list[Figures] = []
    async with fleet(cluster, f"scale-{secrets.token_hex(3)}") as runs:
        bench = Bench(cluster, runs, folder)
        try:
            await until_async(bench._is_ready, 60, "an operator that is ready")
            for size in sizes:
                found.append(await bench.grow(size))
                print(page(found[-1:]), flush=True)
        finally:
            bench.operator.stop()
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, nargs="+", default=[100, 300, 1000])
    cluster_options(arguments)
    options = arguments.parse_args()
    with bench_cluster(options, "halcyon-scale-") as (cluster, folder):
        figures = asyncio.run(measure(cluster, options.runs, folder))
    if options.page is not None:
        write_between(options.page, "scale", page(figures))


if __name__ == "__main__":
    main()
