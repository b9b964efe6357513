"""Costs and gains of growing, beside other pods that want the same nodes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import cache

import pytest

from halcyon_api.status.run_status import PlacementStatus
from halcyon_operator.decide.next.placement import GROWN_PATIENCE_SECONDS, grown, may_probe, patience, shrunk
from halcyon_operator.decide.record.placement import SHARE, with_growth_cost
from tests.operator.builders import at, head, report, rfc, run
from tests.operator.simulation import PODS
from tests.operator.test_elastic import ELASTIC, Cluster

SMALL = PlacementStatus(slices=1, wanted_slices=2)


def test_a_lost_growth_is_followed_by_a_pause_of_twenty_times_its_cost() -> None:
    placement = SMALL
    for growths, cost in enumerate((10, 30), start=1):
        larger = grown(placement, 2, at(0))
        assert (larger.grown_from, patience(larger, 300), patience(SMALL, 300)) == (
            1,
            GROWN_PATIENCE_SECONDS,
            300,
        )
        smaller = shrunk(larger, 1)
        assert (smaller.lost_growths, smaller.grown_from) == (growths, None)
        waiting = with_growth_cost(smaller, 120, None, at(5))
        assert waiting == smaller, "the cost is known only when the run trains again"
        placement = with_growth_cost(smaller, 120, rfc(cost), at(cost))
        pause = max(SHARE * cost, 120 * 2**growths)
        assert placement.grow_not_before == rfc(cost + pause)
        assert [may_probe(placement, at(cost + seconds)) for seconds in (0, pause - 1, pause)] == [False, False, True]


def test_a_growth_has_paid_off_after_twenty_times_its_cost() -> None:
    larger = with_growth_cost(
        grown(SMALL.model_copy(update={"lost_growths": 3}), 2, at(0)), 120, rfc(10), at(10 + SHARE * 10 - 1)
    )
    assert (larger.grown_from, larger.lost_growths) == (1, 3)
    paid = with_growth_cost(larger, 120, rfc(10), at(10 + SHARE * 10))
    assert (paid.grown_from, paid.grown_at, paid.lost_growths) == (None, None, 0)
    assert shrunk(paid, 1).lost_growths == 0, "shrinking later must not count as a lost growth"


def test_a_clock_that_is_set_back_does_not_keep_a_run_small() -> None:
    placement = SMALL.model_copy(update={"grow_not_before": rfc(10_000_000)})
    assert may_probe(placement, at(0) - timedelta(days=1))


class Contested(Cluster):
    """A cluster of two nodes in which a rival takes each free node for 400 s.

    The run trains 20 s after all its pods have nodes, and saves on request.
    """

    RIVAL_SECONDS = 400
    STARTUP_SECONDS = 20

    def __init__(self, *, preempts: bool, everything: bool, grow_after_seconds: int = 120) -> None:
        elastic = ELASTIC["elastic"] | {"growAfterSeconds": grow_after_seconds}
        super().__init__(run(recovery=ELASTIC | {"elastic": elastic}, trainer__steps=1_000_000), 2)
        self.preempts, self.everything = preempts, everything
        self.until: list[float] = [self.RIVAL_SECONDS]
        """Times at which the rival frees each of its nodes."""
        self.trained = 0.0
        """Slice-seconds."""
        self._resumed = 0
        self._placed_at: dict[str, float] = {}
        self.room = 1

    def tick(self) -> None:
        self.now += 9  # and 1 s in the base class
        self.until = [end for end in self.until if end > self.now]
        self.room = 2 - len(self.until)
        super().tick()
        waiting = any(
            "nodeName" not in thing["spec"] for place, thing in self.api.objects.items() if place.startswith(PODS)
        )
        free = self.room - self.placed()
        own = sum(
            "nodeName" in thing["spec"]
            for place, thing in self.api.objects.items()
            if place.startswith(f"{PODS}/demo-") and "probe" not in place
        )
        held = 0 if self.everything else max(0, 1 - own)  # the node that the run always has
        if free > held and not waiting:
            self.until += [self.now + self.RIVAL_SECONDS] * (free - held)
        self._work()

    def _work(self) -> None:
        """The run starts and trains."""
        jobset = self.jobset
        if jobset is None or "deletionTimestamp" in jobset["metadata"]:
            return
        name, slices = jobset["metadata"]["name"], self.slices()
        if sum("nodeName" in thing["spec"] for thing in self.pods(name).values()) < slices:
            return
        self._placed_at.setdefault(name, self.now)
        if self.now - self._placed_at[name] < self.STARTUP_SECONDS:
            return
        self.trained += 10 * slices
        cluster = int(name.rpartition("-")[2]), 0
        started = self._placed_at[name] + self.STARTUP_SECONDS
        step = int(self.trained)
        if cluster not in self.reports:
            self._resumed = step
        self.reports[cluster] = report(*cluster, step=step, resumed=self._resumed, first=started)
        if self.asked and self.asked[-1][1] == cluster:
            self.head = head(step, epoch=cluster)

    def hour(self) -> float:
        """The slice-seconds trained in an hour. The operator reconciles every 10 s."""

        async def live() -> None:
            while self.now < 3600:
                for _ in range(2):
                    await self.reconcile_once()
                self.tick()

        asyncio.run(live())
        return self.trained


@cache
def staying_small(everything: bool) -> float:
    """The slice-seconds that a run trains in an hour if it never looks for room."""
    return Contested(preempts=True, everything=everything, grow_after_seconds=100_000).hour()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preempts", "everything", "share"),
    [
        (True, False, 1.5),
        pytest.param(False, False, 1.5, marks=pytest.mark.variant),
        pytest.param(True, True, 0.8, marks=pytest.mark.variant),
    ],
)
def test_growing_beside_competing_pods_pays_off_or_is_tried_once_an_hour(
    preempts: bool, everything: bool, share: float
) -> None:
    """The larger attempt exists before the probe is deleted, so the rival finds no free node. If the rival takes the
    run's own node during the restart, this growth is lost, and the run does not try again within the hour."""
    cluster = Contested(preempts=preempts, everything=everything)
    assert cluster.hour() >= share * staying_small(everything) > 0
    assert cluster.status["restarts"]["resized"] == (3 if everything else 2)
