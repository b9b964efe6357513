"""The place of a pod, from the operator's variables."""

from __future__ import annotations

import pytest

from halcyon.host.agent.place import Place

ENVIRONMENT = {
    "HALCYON_ATTEMPT": "2",
    "HALCYON_JOB_INDEX": "1",
    "HALCYON_COMPLETION_INDEX": "0",
    "HALCYON_SLICES": "2",
    "HALCYON_HOSTS_PER_SLICE": "1",
    "HALCYON_COORDINATOR": "demo-2-s-0-0.demo:8476",
}


@pytest.mark.parametrize("leaves", [0, 1])
@pytest.mark.parametrize("budget", range(8))
def test_a_crash_loop_ends_the_processes_once_more_than_the_budget(budget: int, leaves: int) -> None:
    """In each restart of the JobSet once, once more if the supervisor forgives it, and once more if a pod leaves its
    node; the JobSet may restart half as often as the budget allows, or a third as often.
    """
    crashes = 0
    for restart in range(budget // (2 + leaves) + 1):
        variables = {"HALCYON_RESTARTS_LEFT": str(budget), "HALCYON_RESTART": str(restart)}
        place = Place.of(ENVIRONMENT | variables | {"HALCYON_LEAVES_NODE": str(leaves)})
        crashes += 1 + place.forgives + place.leaves_node
    assert crashes == budget + 1


def test_without_the_variable_a_process_starts_again() -> None:
    """The operator of an older release does not set it."""
    assert Place.of(ENVIRONMENT | {"HALCYON_RESTART": "0"}).forgives
