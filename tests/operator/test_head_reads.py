"""A store that does not answer delays only its own runs. On an event loop whose time jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_operator.model.views import HeadAbsent, HeadPending, HeadReading, HeadUnreachable, RunKey
from halcyon_operator.observe.head_reads import (
    AT_ONCE,
    PATIENCE_SECONDS,
    SILENT_REQUESTS,
    SLOT_SECONDS,
    UNREACHABLE_SECONDS,
    Circuit,
    HeadReads,
)
from tests.operator.builders import head
from tests.operator.test_work_queue import run

LIMIT_SECONDS = 5.0


@dataclass
class Stores:
    """Endpoints: `silent` ones never answer, `refusing` ones deny access, and the others answer after `seconds`."""

    silent: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    seconds: float = 0.01
    heads: dict[str, HeadReading] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0

    async def read(self, spec: CheckpointSpec) -> HeadReading:
        endpoint = spec.endpoint or ""
        self.asked[endpoint] += 1
        self.at_once[endpoint] += 1
        self.most_at_once = max(self.most_at_once, self.at_once[endpoint])
        known = self.heads.get(spec.root, HeadAbsent())
        try:
            if endpoint in self.refusing:
                return HeadUnreachable("refused")
            if endpoint in self.silent:
                await asyncio.sleep(LIMIT_SECONDS)
                return HeadUnreachable("no answer within 5 s")
            await asyncio.sleep(self.seconds)
            return known
        finally:
            self.at_once[endpoint] -= 1


@cache
def checkpoint(name: str, endpoint: str) -> CheckpointSpec:
    """Where a run's checkpoints are. Some tests read each run hundreds of times."""
    return CheckpointSpec(root=f"s3://bucket/{name}", endpoint=f"http://{endpoint}")


@dataclass
class HeadReader:
    """The reads, and the runs that are due for reconciliation."""

    stores: Stores
    due: list[RunKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reads = HeadReads(self.stores, self.due.append, asyncio.get_running_loop().time)

    async def read(
        self, name: str, endpoint: str, seen_state: object = "ended", max_age_seconds: float = 0.0, team: str = "team"
    ) -> HeadReading:
        return await self.reads.read((team, name), checkpoint(name, endpoint), seen_state, max_age_seconds)

    async def read_to_the_end(
        self, name: str, endpoint: str, seen_state: object = "ended", team: str = "team"
    ) -> HeadReading:
        """As the work queue does: reconcile again whenever there is news of the run."""
        while isinstance(reading := await self.read(name, endpoint, seen_state, team=team), HeadPending):
            while (team, name) not in self.due:
                await asyncio.sleep(0.001)
            self.due.remove((team, name))
        return reading


def silent(*names: str) -> Stores:
    return Stores(silent={f"http://{name}" for name in names})


def now() -> float:
    return asyncio.get_running_loop().time()


def test_three_hundred_runs_on_a_silent_store_delay_no_other_read() -> None:
    async def story() -> None:
        looks = HeadReader(silent("sink:9000"))
        for number in range(300):
            assert isinstance(await looks.read(f"run-{number}", "sink:9000"), HeadPending)
        assert now() == 0
        began = now()
        assert await looks.read_to_the_end("other", "good:9000", team="other team") == HeadAbsent()
        assert now() - began < 0.1
        await asyncio.sleep(2 * LIMIT_SECONDS)
        assert sorted(looks.due) == sorted(("team", f"run-{number}") for number in range(300)), (
            "each run must be notified once"
        )
        for number in range(300):
            assert isinstance(await looks.read(f"run-{number}", "sink:9000"), HeadUnreachable)
        assert looks.stores.asked["http://sink:9000"] == AT_ONCE, "the other runs must use the result of those requests"
        for _ in range(600):
            for number in range(300):
                await looks.read(f"run-{number}", "sink:9000", max_age_seconds=10)
            await asyncio.sleep(1)
        assert looks.stores.asked["http://sink:9000"] < AT_ONCE + 12, (
            "ten minutes later there must be one request in two minutes"
        )
        assert looks.stores.most_at_once <= AT_ONCE
        await looks.reads.close()

    run(story())


def test_three_hundred_silent_stores_delay_no_other_store() -> None:
    async def story() -> None:
        looks = HeadReader(silent(*(f"sink-{number}:9000" for number in range(300))))
        assert await looks.read_to_the_end("known", "good:9000") == HeadAbsent()
        for number in range(300):
            assert isinstance(await looks.read(f"run-{number}", f"sink-{number}:9000"), HeadPending)
        began = now()
        assert await looks.read("known", "good:9000", seen_state="ended again") == HeadAbsent()
        assert now() - began < PATIENCE_SECONDS
        assert await looks.read_to_the_end("new", "better:9000", team="other team") == HeadAbsent()
        assert now() - began < PATIENCE_SECONDS
        assert isinstance(await looks.read_to_the_end("run-299", "sink-299:9000"), HeadUnreachable)
        assert now() - began < SLOT_SECONDS + LIMIT_SECONDS + 1, (
            "the team's own runs must wait in turn, but not for long"
        )
        await looks.reads.close()

    run(story())


def test_a_store_that_answers_again_is_read_as_before() -> None:
    async def story() -> None:
        looks = HeadReader(silent("store:9000"))
        for number in range(5):
            assert isinstance(await looks.read_to_the_end(f"run-{number}", "store:9000"), HeadUnreachable)
        looks.stores.silent.clear()
        looks.stores.heads["s3://bucket/run-0"] = head(12)
        await asyncio.sleep(3 * UNREACHABLE_SECONDS)
        assert await looks.read_to_the_end("run-0", "store:9000") == head(12)
        began = now()
        assert await looks.read("run-1", "store:9000") == HeadAbsent()
        assert now() - began < PATIENCE_SECONDS
        await looks.reads.close()

    run(story())


def test_after_an_end_only_a_read_that_began_later_is_used() -> None:
    async def story() -> None:
        looks = HeadReader(Stores(seconds=1.0))
        assert await looks.read_to_the_end("run", "slow:9000", seen_state="at work") == HeadAbsent()
        assert isinstance(await looks.read("run", "slow:9000", seen_state="leaving"), HeadPending)
        await asyncio.sleep(0.3)
        looks.stores.heads["s3://bucket/run"] = head(20)  # the last save, after the request to the store was sent
        assert await looks.read_to_the_end("run", "slow:9000", seen_state="gone") == head(20)
        await looks.reads.close()

    run(story())


def test_a_training_run_uses_the_last_read_and_is_notified_of_the_next() -> None:
    async def story() -> None:
        looks = HeadReader(Stores(seconds=1.0))
        first = await looks.read("run", "slow:9000", seen_state="at work", max_age_seconds=10)
        assert isinstance(first, HeadUnreachable)
        await asyncio.sleep(2)
        assert looks.due == [("team", "run")]
        assert await looks.read("run", "slow:9000", seen_state="at work", max_age_seconds=10) == HeadAbsent()
        looks.stores.heads["s3://bucket/run"] = head(20)
        await asyncio.sleep(10)
        assert await looks.read("run", "slow:9000", seen_state="at work", max_age_seconds=10) == HeadAbsent()
        await asyncio.sleep(1)
        assert await looks.read("run", "slow:9000", seen_state="at work", max_age_seconds=10) == head(20)
        await looks.reads.close()

    run(story())


def test_a_store_that_denies_access_counts_as_answering() -> None:
    async def story() -> None:
        looks = HeadReader(Stores(refusing={"http://store:9000"}))
        for number in range(10):
            assert await looks.read_to_the_end(f"run-{number}", "store:9000") == HeadUnreachable("refused")
        assert looks.stores.asked["http://store:9000"] == 10
        await looks.reads.close()

    run(story())


def test_a_silent_endpoint_gets_one_request_at_a_time_with_growing_pauses() -> None:
    circuit, times = Circuit(), list[float]()
    for second in range(3600):
        if circuit.admits(second):
            times.append(second)
            circuit.stayed_silent(second + 0.5)
    assert len(times) < SILENT_REQUESTS + 40
    assert times[-1] - times[-2] >= 120
    assert circuit.admits(times[-1] + 200)
    assert not circuit.admits(times[-1] + 201), "one request tries, the others must wait for it"
    circuit.answered()
    assert all(circuit.admits(times[-1] + 202) for _ in range(10))
