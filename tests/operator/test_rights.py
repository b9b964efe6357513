"""The chart grants exactly the rights that the operator uses: none is missing, none is unused."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import yaml

from halcyon_operator.decide.tell.pods import HELD_SECONDS
from halcyon_operator.observe.memory import PodEndings
from halcyon_operator.observe.pod_events import MISSING_PAUSE_SECONDS
from halcyon_operator.observe.watch_cache import WatchCache
from halcyon_operator.run.app import handlers, kopf_settings
from halcyon_operator.run.health import WriteWatch
from halcyon_operator.run.work_queue import WorkQueue
from tests.operator.builders import run
from tests.operator.simulation import PODS, SimulatedCluster, _slice
from tests.operator.test_crashes import cleaned_up, crashed_all, edited, evicted_all
from tests.operator.test_held_pods import END, held
from tests.operator.test_pod_events import hang

HELPERS = Path(__file__).parents[2] / "charts" / "halcyon" / "templates" / "_helpers.tpl"

WATCHED = {(verb, resource) for verb in ("list", "watch") for resource in ("trainingruns", "jobsets", "pods")}
"""Requests of kopf for the handlers, and of the resync."""

NOT_CALLED = {("update", "trainingruns/finalizers")}
"""If the admission plugin is on, an owner reference that blocks the owner's deletion needs this right.

No request uses it.
"""


def hangs(cluster: SimulatedCluster) -> None:
    """A pod has a node and does not start, and another one is not made."""
    cluster.slices_with_room = [0]
    cluster.settle()
    cluster.now += MISSING_PAUSE_SECONDS
    cluster.settle()
    hang(cluster)
    cluster.settle()


def loses_a_pod(cluster: SimulatedCluster) -> None:
    """A pod of a run that restarts in place is lost."""
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    cluster.lose_pod()
    cluster.settle()
    assert cluster.jobset is not None
    assert "restarts" not in cluster.jobset.get("status", {})


def holds_a_pod(cluster: SimulatedCluster) -> None:
    """The trainer of a pod has ended, and another container keeps the pod alive."""
    cluster.settle()
    cluster.train(50)
    cluster.settle()
    place = next(place for place in cluster.api.objects if place.startswith(PODS) and _slice(place) == 1)
    cluster.api.objects[place] = held(42, slice_index=1) | {"metadata": cluster.api.objects[place]["metadata"]}
    cluster.now += END + HELD_SECONDS
    asyncio.run(cluster.reconcile_once())


def granted() -> set[tuple[str, str]]:
    block = re.search(r'define "halcyon.rules" -?}}\n(.*?){{-? end', HELPERS.read_text(), re.DOTALL)
    assert block is not None
    return {
        (verb, resource)
        for rule in yaml.safe_load(block[1])
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_granted_rights_are_exactly_the_used_ones() -> None:
    used: set[tuple[str, str]] = set()
    for story in (edited, evicted_all, crashed_all, cleaned_up, hangs, loses_a_pod, holds_a_pod):
        cluster = SimulatedCluster(run())
        story(cluster)
        used |= cluster.api.used
    assert used | WATCHED | NOT_CALLED == granted()


def test_kopf_writes_nothing_and_watches_labelled_objects_only() -> None:
    registry = handlers(WorkQueue(lambda: 0.0), PodEndings(), WriteWatch(lambda: 0.0), WatchCache())
    settings = kopf_settings()
    assert not registry._changing._handlers, "kopf's change handlers would write annotations"
    assert not registry._spawning._handlers, "kopf's daemons and timers would add finalizers"
    assert len(registry._watching._handlers) == 3
    assert sorted(settings.watching.label_selectors.values()) == ["halcyon.dev/run"] * 2
    assert (settings.posting.enabled, settings.scanning.disabled, settings.peering.standalone) == (False, True, True)
