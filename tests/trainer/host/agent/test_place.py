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


@pytest.mark.parametrize("budget", range(8))
def test_a_crash_loop_ends_the_processes_once_more_than_the_budget(budget: int) -> None:
    """In each restart of the JobSet once, and once more if the supervisor forgives it; the JobSet may restart half as
    often as the budget allows.
    """
    crashes = 0
    for restart in range(budget // 2 + 1):
        variables = {"HALCYON_RESTARTS_LEFT": str(budget), "HALCYON_RESTART": str(restart)}
        crashes += 1 + Place.of(ENVIRONMENT | variables).forgives
    assert crashes == budget + 1


def test_without_the_variable_a_process_starts_again() -> None:
    """The operator of an older release does not set it."""
    assert Place.of(ENVIRONMENT | {"HALCYON_RESTART": "0"}).forgives
