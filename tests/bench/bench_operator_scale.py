"""The costs of a thousand runs for one operator, and the seconds from an event of a run to the operator's write. Fails
if an aim is missed.

    python tests/bench/bench_operator_scale.py                      # 100, 300 and 1,000 runs of 5 pods each, with kwok:
    half an hour python tests/bench/bench_operator_scale.py --runs 100           # one size only python
    tests/bench/bench_operator_scale.py --page docs/scale.md # also write the tables into the page

If the development cluster is not up, it is started and later taken down. Times and counts come from the API server's
audit log.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from halcyon_devcluster import Cluster
from halcyon_devcluster.audit import AuditLog, Request
from halcyon_operator.run.app import RESYNC_SECONDS
from tests.bench.fleet import (
    JOBSETS_API,
    NO_STORE,
    PODS_A_RUN,
    RUNS_API,
    Fleet,
    bench_cluster,
    cluster_options,
    fleet,
    until_async,
)
from tests.cluster.operators import OperatorProcess, stores
from tests.page_block import write_block

REST_SECONDS = RESYNC_SECONDS
EDITS = 200
EVICTIONS = 100
LATE = 30

AT_ONCE = "made, all at once"
MADE = "made, among the others"
EDITED = "edited, live field"
PREEMPTED = "preempted"
ANSWERED = (MADE, EDITED, PREEMPTED)
"""Kinds of events whose answers are timed: one event at a time, while all runs exist.

A backlog (all at once) is shown separately.
"""

WRITES_A_CHANGE = {AT_ONCE: 10, MADE: 10, EDITED: 2, PREEMPTED: 7}
"""The maximum of the operator's writes for each change of a run, on average: status, objects and Events."""
EVENT_TO_WRITE_SECONDS = 2.0
REST_MEBIBYTES = 400
REST_CORES = 0.5
START_SECONDS = 60.0
GROWTH = 1.5
"""At most this factor times the growth of the number of runs: linear growth, on a machine whose processors the API
server shares.
"""
WRITES = ("create", "patch", "update", "delete")


def used(pid: int) -> tuple[float, float]:
    """Processor seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Costs:
    """The costs of one kind of change: the operator's requests by (verb, resource), and the seconds until it writes the
    status.
    """

    changes: int
    requests: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    seconds: list[float] = field(default_factory=list[float])
    unanswered: int = 0

    def each(self, *verbs: str, resource: str = "") -> float:
        """The number of requests with these verbs for each change."""
        return (
            sum(count for (verb, what), count in self.requests.items() if verb in verbs and resource in ("", what))
            / self.changes
        )


@dataclass
class Figures:
    """All figures for one number of runs."""

    runs: int
    resident: float = 0.0
    core: float = 0.0
    peak: float = 0.0
    rest: Costs = field(default_factory=lambda: Costs(1))
    start_ready: float = 0.0
    start_settled: float = 0.0
    made: int = 0
    all_applied: float = 0.0
    kinds: dict[str, Costs] = field(default_factory=dict[str, Costs])


class Bench:
    """One fleet that grows, and its operator."""

    def __init__(self, cluster: Cluster, fleet: Fleet, folder: Path) -> None:
        self.cluster, self.fleet, self.folder = cluster, fleet, folder
        self.audit = AuditLog(cluster.paths.audit_log)
        self.names: list[str] = []
        self.operator = self._start()

    def _start(self) -> OperatorProcess:
        more = {"objectStore": stores(NO_STORE), "lease": {"namespace": self.fleet.namespace}}
        return OperatorProcess.start("bench", self.cluster.kubeconfig, self.fleet.namespace, self.folder, **more)

    def requests(self) -> list[Request]:
        """All requests in the fleet's namespace since the last call."""
        return [request for request in self.audit.new() if request.namespace == self.fleet.namespace]

    async def settled(self) -> bool:
        """Whether every run has its pods, and the operator's queue is empty."""
        samples = await asyncio.to_thread(self.operator.samples)
        if samples.get(("halcyon_operator_queue_depth", ()), 1) > 0:
            return False
        statuses = await self.fleet.statuses()
        if any(status.get("phase") not in ("Starting", "Restarting") for status in statuses.values()) or len(
            statuses
        ) != len(self.names):
            return False
        pods = await self.fleet.running_pods()
        return sum(map(len, pods.values())) == PODS_A_RUN * len(self.names)

    async def grow(self, runs: int) -> Figures:
        """Grow the fleet to this number of runs, and measure."""
        figures = Figures(runs)
        more = [f"run-{number}" for number in range(len(self.names), runs)]
        self.names += more
        began = time.monotonic()
        self.requests()
        await self.fleet.apply_all(more)
        await until_async(self.settled, 900, f"{runs} runs with their pods")
        figures.all_applied = time.monotonic() - began
        figures.made = len(more)
        figures.kinds[AT_ONCE] = self.costs(len(more))
        await self.rest(figures)
        await self.late(figures)
        await self.change(
            figures, EDITED, 5.0, self.names[:EDITS], lambda name: self.fleet.edit(name, ttlSecondsAfterFinished=runs)
        )
        pods = await self.fleet.running_pods()
        evicted = self.names[-EVICTIONS:]
        await self.change(
            figures, PREEMPTED, 2.0, evicted, lambda name: self.fleet.evict(pods[name][0]["metadata"]["name"])
        )
        await self.start(figures)
        return figures

    async def late(self, figures: Figures) -> None:
        """Make some runs one after another while all others exist, and delete them again."""
        before, late = self.names, [f"late-{number}" for number in range(LATE)]
        self.names = before + late
        await self.change(figures, MADE, 1.0, late, self.fleet.apply)
        self.names = before
        for name in late:
            await self.fleet.delete(*RUNS_API, name)
        await until_async(self._has_no_more_jobsets, 300, "a fleet without the late runs")
        await until_async(self.settled, 300, "an operator that has seen the deletions")

    async def _has_no_more_jobsets(self) -> bool:
        return len(await self.fleet.listed(*JOBSETS_API)) == len(self.names)

    async def rest(self, figures: Figures) -> None:
        """Processor, memory and requests while the fleet is idle; the time includes one of the operator's own checks of
        all runs.
        """
        await asyncio.sleep(15)
        self.requests()
        before, _ = used(self.operator.process.pid)
        await asyncio.sleep(REST_SECONDS)  # the idle time that is measured
        after, figures.resident = used(self.operator.process.pid)
        figures.core = (after - before) / REST_SECONDS
        figures.rest = self.costs(1)

    async def change(
        self,
        figures: Figures,
        kind: str,
        a_second: float,
        chosen: list[str],
        change: Callable[[str], Awaitable[object]],
    ) -> None:
        """Change runs one after another, and measure the operator's requests."""
        self.requests()
        for name in chosen:
            await change(name)
            await asyncio.sleep(1 / a_second)
        await until_async(self.settled, 300, f"runs {kind}")
        figures.kinds[kind] = self.costs(len(chosen))

    async def start(self, figures: Figures) -> None:
        """Restart the operator while all runs exist, and measure the start."""
        self.operator.stop()
        began = time.monotonic()
        self.operator = self._start()
        await until_async(self._is_ready, 120, "an operator that is ready", 0.1)
        figures.start_ready = time.monotonic() - began
        await until_async(self._has_looked, 300, "an operator that has reconciled all runs", 0.2)
        figures.start_settled = time.monotonic() - began
        _, figures.peak = used(self.operator.process.pid)

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(lambda: self.operator.ready)

    async def _has_looked(self) -> bool:
        samples = await asyncio.to_thread(self.operator.samples)
        known = sum(value for (name, _), value in samples.items() if name == "halcyon_operator_runs")
        return known == len(self.names) and samples[("halcyon_operator_queue_depth", ())] == 0

    def costs(self, changes: int) -> Costs:
        """From the log since the last call: the operator's requests, and the time from each event to the next write of
        the status.
        """
        costs, since = Costs(changes), dict[str, float]()
        for request in sorted(self.requests(), key=lambda request: request.at):
            if request.agent.startswith("halcyon-operator"):
                if request.resource != "leases" and request.verb != "watch":
                    costs.requests[request.verb, request.resource] += 1
                if request.resource == "trainingruns/status" and request.code == 200 and request.name in since:
                    costs.seconds.append(request.at.timestamp() - since.pop(request.name))
            elif (
                request.agent == "halcyon-bench"
                and request.write
                and request.resource in ("trainingruns", "pods/eviction")
            ):
                # RUN-ATTEMPT-s-SLICE-HOST-RANDOM
                run = request.name if request.resource == "trainingruns" else request.name.rsplit("-", 5)[0]
                since.setdefault(run, request.at.timestamp())
        costs.unanswered = len(since)
        return costs


def table(header: str, rows: list[list[str]]) -> str:
    """A table in Markdown."""
    rule = "|" + "---|" * (header.count("|") - 1)
    return "\n".join([header, rule, *("| " + " | ".join(row) + " |" for row in rows)])


def share_of(values: list[float], share: float) -> float:
    """The percentile of the values at `share`, by nearest rank; infinite without values."""
    ranked = sorted(values)
    return ranked[math.ceil(share * len(ranked)) - 1] if ranked else math.inf


def seconds(values: list[float], share: float) -> str:
    """The percentile as text for a table."""
    return f"{share_of(values, share):.2f} s" if values else "-"


def missed(one: Figures) -> list[str]:
    """The missed aims of a fleet, each in a sentence."""
    found: list[str] = []

    def aim(what: str, value: float, limit: float, unit: str) -> None:
        if value > limit:
            found.append(f"{one.runs:,} runs: {what} {value:.2f} {unit}, more than {limit:g}")

    aim("memory at rest", one.resident, REST_MEBIBYTES, "MiB")
    aim("processor at rest", one.core, REST_CORES, "cores")
    aim("a start", one.start_settled, START_SECONDS, "s")
    for kind in ANSWERED:
        aim(
            f"event to write ({kind}), 99th percentile",
            share_of(one.kinds[kind].seconds, 0.99),
            EVENT_TO_WRITE_SECONDS,
            "s",
        )
        aim(f"events without an answer ({kind})", one.kinds[kind].unanswered, 0, "")
    for kind, limit in WRITES_A_CHANGE.items():
        aim(f"writes ({kind})", one.kinds[kind].each(*WRITES), limit, "each")
    return found


def outgrown(fewest: Figures, most: Figures) -> list[str]:
    """The figures that grow faster than the number of runs, each in a sentence."""
    allowed = GROWTH * most.runs / fewest.runs
    pairs = {
        "memory at rest": (fewest.resident, most.resident),
        "processor at rest": (fewest.core, most.core),
        "a start": (fewest.start_settled, most.start_settled),
        "all applied at once": (
            fewest.all_applied / fewest.made * fewest.runs,
            most.all_applied / most.made * most.runs,
        ),
    }
    return [
        f"{what} is {many / few:.1f} times as much for {most.runs:,} runs as for {fewest.runs:,}, more than {allowed:g}"
        for what, (few, many) in pairs.items()
        if many > allowed * few
    ]


def page(all_figures: list[Figures]) -> str:
    """The tables."""
    rest = table(
        "| runs | pods | memory at rest | cores at rest | reads/s at rest | writes/s at rest | start: watches filled | "
        "start: all seen |",
        [
            [
                f"{one.runs:,}",
                f"{one.runs * PODS_A_RUN:,}",
                f"{one.resident:.0f} MiB",
                f"{one.core:.3f}",
                f"{one.rest.each('get', 'list') / REST_SECONDS:.1f}",
                f"{one.rest.each(*WRITES) / REST_SECONDS:.1f}",
                f"{one.start_ready:.1f} s",
                f"{one.start_settled:.1f} s",
            ]
            for one in all_figures
        ],
    )
    answers = table(
        "| a run is | among | events | event to write, median | 99th percentile | longest |",
        [
            [
                kind,
                f"{one.runs:,}",
                str(len(costs.seconds)),
                *(seconds(costs.seconds, share) for share in (0.5, 0.99, 1.0)),
            ]
            for one in all_figures
            for kind, costs in one.kinds.items()
            if kind in ANSWERED
        ],
    )
    requests = table(
        "| a run is | among | status | created | deleted | Events | writes in all | limit | reads |",
        [
            [
                kind,
                f"{one.runs:,}",
                f"{costs.each('patch', resource='trainingruns/status'):.1f}",
                f"{costs.each('create', resource='jobsets') + costs.each('create', resource='configmaps'):.1f}",
                f"{costs.each('delete'):.1f}",
                f"{costs.each('create', resource='events'):.1f}",
                f"{costs.each(*WRITES):.1f}",
                str(WRITES_A_CHANGE[kind]),
                f"{costs.each('get', 'list'):.1f}",
            ]
            for one in all_figures
            for kind, costs in one.kinds.items()
        ],
    )
    backlog = table(
        "| runs more | until every pod runs | for each | first status, median | 99th percentile |",
        [
            [
                f"{one.made:,}",
                f"{one.all_applied:.0f} s",
                f"{one.all_applied / one.made:.2f} s",
                *(seconds(one.kinds[AT_ONCE].seconds, share) for share in (0.5, 0.99)),
            ]
            for one in all_figures
        ],
    )
    growth = table(
        "| from | to | memory a run | start a run |",
        [
            [
                f"{fewer.runs:,}",
                f"{more.runs:,}",
                f"{(more.resident - fewer.resident) / (more.runs - fewer.runs):.2f} MiB",
                f"{1000 * (more.start_settled - fewer.start_settled) / (more.runs - fewer.runs):.0f} ms",
            ]
            for fewer, more in itertools.pairwise(all_figures)
        ],
    )
    parts = [
        rest,
        answers,
        "Requests of the operator for each change of a run:",
        requests,
        "All of them applied at once:",
        backlog,
    ]
    if len(all_figures) > 1:
        parts += ["What each run more costs:", growth]
    return "\n\n".join(parts) + "\n"


async def measure(cluster: Cluster, sizes: list[int], folder: Path) -> list[Figures]:
    """All figures of a fleet that grows from one size to the next."""
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
        write_block(options.page, "scale", page(figures))
    if problems := [problem for one in figures for problem in missed(one)] + outgrown(figures[0], figures[-1]):
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
