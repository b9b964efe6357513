"""The effect of one tenant's problem on another tenant's runs: a store that never answers, and a run of thousands of
pods.

    python tests/bench/bench_isolation.py                      # half an hour
    python tests/bench/bench_isolation.py --pods 5 256         # smaller runs only
    python tests/bench/bench_isolation.py --page docs/scale.md # also write the tables into the page

Pods are fake (kwok); everything else is real. Times come from the API server's audit log. Fails if an aim is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from halcyon_devcluster import Cluster
from halcyon_devcluster.audit import AuditLog
from tests.bench.bench_operator_scale import seconds, share_of, table
from tests.bench.fleet import (
    NO_STORE,
    RUNS_API,
    Fleet,
    bench_cluster,
    cluster_options,
    fleet,
    until_async,
)
from tests.cluster.operators import OperatorProcess, stores
from tests.page_block import write_block

OTHERS = 20
"""Runs of the tenant without the problem."""
FIRST_STATUS_SECONDS = 2.0
EVENT_TO_WRITE_SECONDS = 1.0
LIMIT_MEBIBYTES = 384
"""The memory limit of the chart."""
MOST_HOSTS = 1024
"""Maximum for one slice."""


@dataclass
class Answers:
    """Seconds from each event of the other tenant's runs to the operator's write, and the operator's peak memory."""

    trouble: int
    made: list[float]
    edited: list[float]
    evicted: list[float]
    peak_mebibytes: float
    until_all_run: float = 0.0


class Bench:
    """An operator of two namespaces; one of them has the problem."""

    def __init__(self, cluster: Cluster, troubled: Fleet, other: Fleet, folder: Path, endpoint: str) -> None:
        self.troubled, self.other = troubled, other
        self.audit = AuditLog(cluster.paths.audit_log)
        self.operator = OperatorProcess.start(
            troubled.namespace,
            cluster.kubeconfig,
            troubled.namespace,
            folder,
            namespaces=[troubled.namespace, other.namespace],
            lease={"namespace": other.namespace},
            objectStore=stores(endpoint, NO_STORE),
        )

    async def ready(self) -> None:
        """Wait until the operator's watches are filled."""
        await until_async(self._is_ready, 60, "an operator that is ready", 0.1)

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(lambda: self.operator.ready)

    def answers(self) -> list[float]:
        """Seconds from each event of the other tenant's runs since the last call to the operator's next write of the
        status.
        """
        since: dict[str, float] = {}
        found: list[float] = []
        for request in sorted(self.audit.new(), key=lambda request: request.at):
            if request.namespace != self.other.namespace:
                continue
            if (
                request.agent.startswith("halcyon-operator")
                and request.resource == "trainingruns/status"
                and request.name in since
            ):
                found.append(request.at.timestamp() - since.pop(request.name))
            elif (
                request.agent == "halcyon-bench"
                and request.write
                and request.resource in ("trainingruns", "pods/eviction")
            ):
                run = request.name if request.resource == "trainingruns" else request.name.rsplit("-", 5)[0]
                since.setdefault(run, request.at.timestamp())
        found += [float("inf")] * len(since)
        return found

    async def disturb(self, trouble: int) -> Answers:
        """Make, edit and evict runs of the other tenant, one a second."""
        self.answers()
        names = [f"other-{secrets.token_hex(3)}" for _ in range(OTHERS)]
        made = await self._each(names, self.other.apply)
        await until_async(lambda: self._run(names), 600, "the other tenant's runs with their pods")
        self.answers()
        edited = await self._each(
            names, lambda name: self.other.edit(name, ttlSecondsAfterFinished=secrets.randbelow(10**6))
        )
        pods = await self.other.running_pods()
        evicted = await self._each(names, lambda name: self.other.evict(pods[name][0]["metadata"]["name"]))
        for name in names:
            await self.other.delete(*RUNS_API, name)
        return Answers(trouble, made, edited, evicted, self.peak())

    async def _each(self, names: list[str], change: Callable[[str], Awaitable[object]]) -> list[float]:
        for name in names:
            await change(name)
            await asyncio.sleep(1)
        await asyncio.sleep(5)  # a later write counts as missing
        return self.answers()

    async def _run(self, names: list[str]) -> bool:
        pods = await self.other.running_pods()
        return all(len(pods.get(name, [])) == 5 for name in names)

    def peak(self) -> float:
        """The operator's peak memory, in MiB."""
        lines = Path(f"/proc/{self.operator.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@asynccontextmanager
async def bench_of(cluster: Cluster, folder: Path, endpoint: str = NO_STORE) -> AsyncIterator[Bench]:
    """A bench with two new namespaces and a new operator."""
    async with AsyncExitStack() as stack:
        troubled, other = [
            await stack.enter_async_context(fleet(cluster, f"{name}-{secrets.token_hex(3)}"))
            for name in ("troubled", "other")
        ]
        bench = Bench(cluster, troubled, other, folder, endpoint)
        try:
            await bench.ready()
            yield bench
        finally:
            bench.operator.stop()


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """A store that accepts connections and never answers."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def beside_a_sink(cluster: Cluster, runs: int, folder: Path) -> Answers:
    """Measure the other tenant's runs beside `runs` runs whose store never answers."""
    async with sink() as endpoint, bench_of(cluster, folder, endpoint) as bench:
        await bench.troubled.apply_all([f"run-{number}" for number in range(runs)], hosts=1, endpoint=endpoint)

        async def seen() -> bool:
            return sum(status.get("attempt") == 1 for status in (await bench.troubled.statuses()).values()) == runs

        await until_async(seen, 600, "a first attempt of each run on the sink")
        return await bench.disturb(runs)


async def beside_a_large_run(cluster: Cluster, pods: int, folder: Path) -> Answers:
    """Measure the other tenant's runs while a run of `pods` pods starts."""
    async with bench_of(cluster, folder) as bench:
        slices = max(1, pods // MOST_HOSTS)
        began = time.monotonic()
        await bench.troubled.apply("large", hosts=pods // slices, slices=slices)

        async def all_run() -> float:
            async def running() -> bool:
                return len((await bench.troubled.running_pods()).get("large", [])) == pods

            await until_async(running, 1800, f"a run of {pods} pods", 5.0)
            return time.monotonic() - began

        until_all_run, answers = await asyncio.gather(all_run(), bench.disturb(pods))
        answers.until_all_run, answers.peak_mebibytes = until_all_run, bench.peak()
        return answers


def missed(what: str, one: Answers) -> list[str]:
    """The missed aims, each in a sentence."""
    found: list[str] = []
    for kind, values, aim in (
        ("first status", one.made, FIRST_STATUS_SECONDS),
        ("event to write (edited)", one.edited, EVENT_TO_WRITE_SECONDS),
        ("event to write (evicted)", one.evicted, EVENT_TO_WRITE_SECONDS),
    ):
        if share_of(values, 0.99) > aim:
            found.append(
                f"{what} {one.trouble:,}: {kind}, 99th percentile {share_of(values, 0.99):.2f} s, more than {aim:g}"
            )
    if one.peak_mebibytes > LIMIT_MEBIBYTES:
        found.append(f"{what} {one.trouble:,}: {one.peak_mebibytes:.0f} MiB, more than {LIMIT_MEBIBYTES}")
    return found


def page(sinks: list[Answers], sizes: list[Answers]) -> str:
    """The tables."""
    header = "first status, 99th percentile | edited | evicted | the operator's most memory |"

    def row(one: Answers) -> list[str]:
        return [
            *(seconds(values, 0.99) for values in (one.made, one.edited, one.evicted)),
            f"{one.peak_mebibytes:.0f} MiB",
        ]

    stores = table(
        f"| runs on a store that never answers | {header}", [[f"{one.trouble:,}", *row(one)] for one in sinks]
    )
    rows = [[f"{one.trouble:,}", f"{one.until_all_run:.0f} s", *row(one)] for one in sizes]
    large = table(f"| pods of a run that starts | until all run | {header}", rows)
    return f"{stores}\n\n{large}\n"


async def measure(cluster: Cluster, options: argparse.Namespace, folder: Path) -> tuple[list[Answers], list[Answers]]:
    """All figures."""
    sinks, sizes = list[Answers](), list[Answers]()
    for runs in options.runs:
        sinks.append(await beside_a_sink(cluster, runs, folder))
        print(page(sinks, sizes), flush=True)
    for pods in options.pods:
        sizes.append(await beside_a_large_run(cluster, pods, folder))
        print(page(sinks, sizes), flush=True)
    return sinks, sizes


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, nargs="*", default=[0, 100, 300])
    arguments.add_argument("--pods", type=int, nargs="*", default=[5, 256, 1024, 4096])
    cluster_options(arguments)
    options = arguments.parse_args()
    with bench_cluster(options, "halcyon-isolation-") as (cluster, folder):
        sinks, sizes = asyncio.run(measure(cluster, options, folder))
    if options.page is not None:
        write_block(options.page, "isolation", page(sinks, sizes))
    problems = [text for one in sinks for text in missed("runs on a sink", one)] + [
        text for one in sizes for text in missed("pods", one)
    ]
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
