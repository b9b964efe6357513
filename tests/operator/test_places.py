"""A run takes the first row of hardware that it gets, and moves to a better one at a checkpoint, whatever happens to the
operator meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halcyon_api.status.run_status import parse_status
from halcyon_operator.decide.next.placement import late
from halcyon_operator.decide.record.placement import better_row
from halcyon_operator.model.views import Observed
from halcyon_operator.model.workload import WorkloadView
from halcyon_operator.observe.runs import parse_run_view
from tests.operator.builders import SETTINGS, at, head, rfc, run
from tests.operator.simulation import RUN
from tests.operator.test_crashes import FAULTS
from tests.operator.test_elastic import Cluster, condition, later, trains


def places(**place: Any) -> dict[str, Any]:
    """A run with three rows: two slices in pool a, one in pool b, four in pool c."""
    hardware = {"type": "cpu", "topology": "1x1"}
    rows = [
        {"accelerator": hardware, "nodeSelector": {"pool": "b"}, "microbatches": 2},
        {"accelerator": hardware | {"slices": 4, "pricePerChipHour": 9}, "nodeSelector": {"pool": "c"}},
    ]
    return run(
        place={"otherwise": rows, "waitSeconds": 300} | place,
        scheduling={"nodeSelector": {"pool": "a"}},
        accelerator=hardware | {"slices": 2, "pricePerChipHour": 1},
    )


class Pools(Cluster):
    """A cluster whose nodes are in pools."""

    def __init__(self, document: dict[str, Any], faults: dict[int, str] | None = None, **rooms: int) -> None:
        super().__init__(document, 0, faults)
        self.rooms = {"a": 0, "b": 0, "c": 0} | rooms

    def _fill(self, jobset: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
        def pool(one: dict[str, Any]) -> str:
            spec = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
            return str(spec["nodeSelector"]["pool"])

        there = [one["metadata"]["name"] for one in self.jobsets() if pool(one) == pool(jobset)]
        taken = sum("nodeName" in found["spec"] for name in there for found in self.pods(name).values())
        self.room = self.placed() - taken + self.rooms[pool(jobset)]
        super()._fill(jobset, pods)

    @property
    def row(self) -> int:
        return int(self.status["placement"].get("row", 0))


def ends_in_the_last_row(cluster: Pools) -> None:
    cluster.settle()
    later(cluster, 301)
    trains(cluster, 50, 40)
    cluster.rooms = {"a": 0, "b": 0, "c": 4}
    cluster.shrink_room(0)
    later(cluster, 1)
    later(cluster, 301)
    later(cluster, 301)
    later(cluster, 301)
    trains(cluster, 60, 50)
    cluster.head = head(300, epoch=(cluster.status["attempt"], 0))
    cluster.end_jobset("Completed")
    cluster.settle()


def test_a_run_tries_its_rows_in_turn_and_after_a_loss_the_first_one_again() -> None:
    cluster = Pools(places(), b=1)
    cluster.settle()
    assert (cluster.row, cluster.slices()) == (0, 2)
    later(cluster, 290)
    assert cluster.status["attempt"] == 1, "it must wait before it tries the next row"
    later(cluster, 20)
    assert (cluster.status["attempt"], cluster.row, cluster.slices()) == (2, 1, 1)
    document = cluster.document()["spec"]
    assert (document["accelerator"]["slices"], document["trainer"]["batchSize"]) == (1, 8)
    assert (document["trainer"]["microbatches"], "place" in document) == (2, False)
    trains(cluster, 50, 40)
    later(cluster, 5000)
    assert (cluster.status["attempt"], cluster.probe) == (2, None), "without `by` a run that trains stays"
    cluster.rooms = {"a": 0, "b": 0, "c": 4}
    cluster.shrink_room(0)
    later(cluster, 1)
    later(cluster, 301)
    assert (cluster.row, cluster.slices()) == (0, 2), "after a loss of its hardware, the first row comes first"
    later(cluster, 301)
    assert cluster.row == 1
    later(cluster, 301)
    assert (cluster.row, cluster.status["attempt"], cluster.slices()) == (2, 5, 4)
    assert cluster.status["restarts"] | {"moved": 4, "preempted": 1} == cluster.status["restarts"]
    assert cluster.status["failuresWithoutCheckpoint"] == 0
    assert cluster.status["topology"]["slices"] == 4


def test_a_resumed_run_begins_with_the_first_row() -> None:
    cluster = Pools(places(), b=1)
    cluster.settle()
    later(cluster, 301)
    cluster.edit(suspend=True)
    cluster.settle()
    cluster.edit(suspend=False)
    cluster.settle()
    assert (cluster.row, cluster.slices()) == (0, 2)


def test_a_run_moves_to_a_cheaper_row_at_a_checkpoint_when_a_probe_holds_room_there() -> None:
    cluster = Pools(places(by="price"), b=1)
    cluster.settle()
    later(cluster, 301)
    trains(cluster, 10, 5)
    assert cluster.probe is None
    later(cluster, 301)
    assert cluster.probe is not None
    assert cluster.probe["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert cluster.status["attempt"] == 2, "without evidence of room it stays"
    cluster.rooms["a"] = 1
    cluster.settle()
    assert "roomSince" not in cluster.status["placement"], "there must be room for the whole row"
    cluster.rooms["a"] = 2
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["placement"]["roomRow"]) == (2, 0), "first a checkpoint"
    trains(cluster, 30, 20)
    assert (cluster.status["attempt"], cluster.row, cluster.slices(), cluster.probe) == (3, 0, 2, None)
    trains(cluster, 40)
    assert condition(cluster, "Running")[0] == "True"


def test_a_move_that_finds_no_nodes_is_given_up_soon_and_not_repeated_soon() -> None:
    cluster = Pools(places(by="price"), a=2, b=1)
    cluster.settle()
    cluster.api.objects[RUN]["status"]["placement"] |= {"grownFrom": 1, "grownAt": rfc(0)}
    cluster.rooms["a"] = 0
    for pods in cluster.pods("demo-1"):
        del cluster.api.objects[pods]
    later(cluster, 1)
    later(cluster, 61)
    assert (cluster.row, cluster.status["placement"]["lostGrowths"]) == (1, 1)


def test_a_changed_row_in_use_makes_a_new_attempt_and_another_row_does_not() -> None:
    document = places()
    cluster = Pools(document, b=1)
    cluster.settle()
    later(cluster, 301)
    trains(cluster, 10, 10)
    place = document["spec"]["place"]
    cluster.edit(place=place | {"otherwise": place["otherwise"][:1]})
    cluster.settle()
    assert cluster.status["attempt"] == 2
    cluster.edit(place=place | {"otherwise": [place["otherwise"][0] | {"microbatches": 4}]})
    cluster.settle()
    cluster.head = head(10, epoch=(2, 0))
    cluster.settle()
    assert (cluster.status["attempt"], cluster.row) == (3, 1)
    assert cluster.document()["spec"]["trainer"]["microbatches"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["crash after", *(pytest.param(fault, marks=pytest.mark.variant) for fault in FAULTS[1:])]
)
def test_a_fault_at_any_write_does_not_change_the_rows(fault: str) -> None:
    undisturbed = Pools(places(), b=1)
    ends_in_the_last_row(undisturbed)
    for write in range(1, undisturbed.api.writes + 1):
        cluster = Pools(places(), {write: fault}, b=1)
        ends_in_the_last_row(cluster)
        assert (cluster.status["phase"], cluster.status["attempt"], cluster.row) == ("Succeeded", 5, 2)
        assert cluster.status["restarts"] == {**undisturbed.status["restarts"]}
        assert cluster.api.recorded_attempt_at_create == [(f"demo-{number}", number) for number in range(1, 6)]


HOUR = 3600
TABLE: list[tuple[dict[str, Any], int, list[float], int | None, int | None]] = [
    # place, row, speeds, eta of the row, better row
    ({}, 1, [], None, None),
    ({"by": "price"}, 0, [], None, None),
    ({"by": "price"}, 1, [], None, 0),
    ({"by": "price"}, 2, [100, 100, 300], None, 0),
    ({"by": "price"}, 2, [1, 0, 300], None, 1),
    ({"by": "price"}, 2, [1, 1, 30000], None, 1),  # no price of row 1 is known
    ({"by": "time"}, 2, [100, 200, 150], None, 1),
    ({"by": "time"}, 2, [100, 100, 300], None, None),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 0, [100, 50, 300], 9 * HOUR, None),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 0, [100, 50, 300], 10 * HOUR, 2),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 0, [100, 0, 300], 10 * HOUR, 1),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 0, [100, 50, 101], 20 * HOUR, None),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 2, [100, 50, 300], 3 * HOUR, None),
    ({"by": "price", "deadline": rfc(10 * HOUR)}, 2, [100, 50, 300], 2 * HOUR, 0),
    ({"by": "price", "deadline": "damaged"}, 1, [], 1, None),
]


@pytest.mark.parametrize(("place", "row", "speeds", "eta", "better"), TABLE)
def test_the_better_row(place: dict[str, Any], row: int, speeds: list[float], eta: int | None, better: Any) -> None:
    placement = {"slices": 1, "wantedSlices": 1, "row": row, "speeds": speeds}
    status = {"attempt": 1, "placement": placement, "progress": {"step": 9, "etaSeconds": eta}}
    document = places(**place) | {"status": status}
    observed = Observed(parse_run_view(document), SETTINGS)
    assert better_row(replace(observed, now=at(0)), parse_status(status)) == better


@pytest.mark.parametrize(("active", "row"), [(True, 1), (False, 0)])
def test_a_queue_that_admits_nothing_is_left_for_the_next_row_unless_a_user_holds_the_run(
    active: bool, row: int
) -> None:
    status = {
        "attempt": 1,
        "placement": {"slices": 2, "wantedSlices": 2},
        "queue": {"name": "research", "waitingSince": rfc(0)},
    }
    observed = Observed(
        parse_run_view(places() | {"status": status}), SETTINGS, workload=WorkloadView("w", active=active)
    )
    assert observed.run.spec is not None
    found = [late(replace(observed, now=at(after)), observed.run.status, observed.run.spec) for after in (299, 300)]
    assert found == [False, bool(row)]
