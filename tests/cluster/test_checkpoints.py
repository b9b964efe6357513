"""A run that is deleted during a save, with real trainers on a real object store.

Damaged checkpoints, and a root that belongs to another run, are tested in tests/cluster/test_whole_path.py.
"""

from __future__ import annotations

import hashlib
import time

import pytest

from halcyon_demo.comparison import Loss, compare, losses
from tests.cluster.roots import begun, files, head, read
from tests.cluster.whole_path import STEPS, WholePath
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]


def test_a_run_deleted_during_a_save_resumes_from_an_intact_checkpoint(
    path: WholePath, undisturbed: list[Loss]
) -> None:
    training = path.training("deleted", save={"everySteps": 1})
    training.apply()
    training.wait_for_step(20)
    with path.root(training.name) as root:
        deadline = time.monotonic() + limit(60)
        while begun(root) <= {checkpoint.path.rstrip("/") for checkpoint in head(root).committed}:
            assert time.monotonic() < deadline, "no save in flight was seen"
        training.delete()
        left = head(root)
        assert left.newest is not None
        assert left.newest.step >= 19
        for key, digest in files(root, left.newest).items():
            assert hashlib.sha256(read(root, key)).hexdigest() == digest
    training = path.training("deleted")  # the run created again, with a longer save interval, which may change
    training.apply()
    status, lines = path.finish(training)
    assert compare(losses(lines, training.name), undisturbed, STEPS).differences == ()
    assert {line.step for line in lines if line.event == "restored"} == {0, left.newest.step}
    assert status.restarts.total == 0
