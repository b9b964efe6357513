"""Credentials that are wrong for a while, at the worst time: while a run restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from halcyon_demo.comparison import Loss, compare, losses
from halcyon_demo.install import STORE
from tests.cluster.whole_path import STEPS, WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(1200)]

NAME = "wrong-secret"
RETRY_SECONDS = 20


@contextmanager
def wrong_secret(path: WholePath) -> Iterator[None]:
    """The Secret has a wrong key for new pods; running pods keep the right one."""
    place = "--namespace", path.place.runs
    kubectl = path.devcluster.kubectl
    right = kubectl.json("get", "secret", STORE, *place)["data"]["AWS_SECRET_ACCESS_KEY"]
    kubectl(
        "patch",
        "secret",
        STORE,
        *place,
        "--type=merge",
        "--patch",
        json.dumps({"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}}),
    )
    try:
        yield
    finally:
        kubectl(
            "patch",
            "secret",
            STORE,
            *place,
            "--type=merge",
            "--patch",
            json.dumps({"data": {"AWS_SECRET_ACCESS_KEY": right}}),
        )


def test_a_wrong_secret_during_an_eviction_ends_no_run(path: WholePath, undisturbed: list[Loss]) -> None:
    training = path.training(NAME, accessRetrySeconds=RETRY_SECONDS)
    training.apply()
    training.wait_for_step(40)

    def refused() -> bool | None:
        words = (str(line.fields.get("message")) for line in training.lines() if line.event == "warning")
        return True if any("the process tries again, with credentials read again" in text for text in words) else None

    with wrong_secret(path):
        training.evict(1)
        training.observations.wait(
            refused, timeout_seconds=300, failure=lambda: "no process of the new process group was denied access"
        )
    status, lines = path.finish(training)
    assert status.restarts.preempted == 1
    assert status.restarts.root_unusable == status.restarts.total - 1 >= 1, (
        "a process that starts with the wrong key keeps it until it ends"
    )
    assert compare(losses(lines, NAME), undisturbed, STEPS).differences == ()
