"""Every model family trains through an eviction with the losses of an undisturbed run, bit for bit.

Only the model of the example changes. The runs of a test have one pod each and train side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.training import RESOURCE, Training
from tests.cluster.whole_path import WholePath
from tests.families import SMALL_FAMILIES
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.xdist_group("families")]

STEPS = 200
KINDS = ("gemma3", "deepseekV3", "qwen3Next")
"""Together they have each kind of part: windows, sandwich norms, experts, latent attention, gated delta nets."""
TOGETHER = 4
"""Families that train at the same time."""
OTHERS = tuple(name for name in SMALL_FAMILIES if name not in KINDS)


def together(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The groups of families that train at the same time."""
    return [names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER)]


def document(path: WholePath, family: str, name: str) -> dict[str, Any]:
    run = variant(path.document, name=f"{family.lower()}-{name}", steps=STEPS)
    run["spec"]["model"] = SMALL_FAMILIES[family]
    run["spec"]["accelerator"]["slices"] = 1
    run["spec"]["trainer"] |= {"evaluation": {}, "batchSize": 4, "sequenceLength": 64}
    # Six runs share the processors; a shorter time may end before the last save, and then steps are repeated.
    run["spec"].setdefault("recovery", {})["gracePeriodSeconds"] = limit(30)
    return run


@pytest.fixture
def trainings(path: WholePath, families: tuple[str, ...]) -> Iterator[dict[str, tuple[Training, Training]]]:
    """For each family a run to disturb, and one to compare with."""
    made = {
        family: tuple(path.training_of(document(path, family, name)) for name in ("evicted", "calm"))
        for family in families
    }
    yield {family: (disturbed, calm) for family, (disturbed, calm) in made.items()}
    names = [training.name for both in made.values() for training in both]
    path.devcluster.kubectl(
        "delete", RESOURCE, *names, "--namespace", path.place.runs, "--ignore-not-found", "--wait=false"
    )


@pytest.mark.parametrize(
    "families",
    [
        *together(KINDS),
        *(pytest.param(group, marks=pytest.mark.variant) for group in together(OTHERS)),
    ],
    ids=", ".join,
)
def test_families_train_through_an_eviction_with_the_same_losses(
    path: WholePath, trainings: dict[str, tuple[Training, Training]]
) -> None:
    def evicted(training: Training) -> None:
        training.apply()
        training.wait_for_step(1)
        training.wait_for_recovery(training.evict(0))

    with ThreadPoolExecutor(len(trainings)) as pool:
        waiting = [pool.submit(evicted, disturbed) for disturbed, _ in trainings.values()]
        for _, calm in trainings.values():
            calm.apply()
        for one in waiting:
            one.result()
    for family, (disturbed, calm) in trainings.items():
        status, lines = path.finish(disturbed)
        assert [entry.cause for entry in status.history] == ["preempted", "completed"], (family, status.history)
        comparison = compare(losses(lines, disturbed.name), losses(path.finish(calm)[1], calm.name), STEPS)
        assert (comparison.differences, comparison.repeated) == ((), 0), family
