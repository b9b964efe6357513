"""A bit flips in the memory of one pod of three: the audit names its process, the run goes back, and ends with the bits
of a run in which no bit flipped.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from halcyon.checkpoint.arrays import Checkpoint
from halcyon.checkpoint.opening import committed_steps
from halcyon.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import load, variant
from halcyon_demo.training import RESOURCE
from halcyon_devcluster.forwarding import forwarded
from halcyon_devcluster.waiting import until
from tests.cluster.life import UNENDING, WITHOUT_END
from tests.cluster.whole_path import EXAMPLES, STORE, WholePath
from tests.suite import promises

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

EVERY = 20
"""Steps between audits."""


def document(path: WholePath, name: str, steps: int) -> dict[str, Any]:
    """A run on three hosts that is audited. Embeddings do not decay, so that of a token that never comes stays."""
    found = variant(path.document, name=name)
    spec = found["spec"]
    spec["accelerator"] |= {"slices": 3, "topology": "1x1"}
    spec["optimizer"] = UNENDING
    spec["trainer"] |= {"steps": steps, "batchSize": 12, "evaluation": {"everySteps": 0}}
    spec["checkpoint"]["save"] = {"everySteps": EVERY}
    spec["recovery"] = {"audit": {"everySteps": EVERY}}
    return found


def constant_row(path: WholePath, name: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The embedding of a token that has never come: the same bytes in the oldest and the newest checkpoint."""
    secret = next(
        one["stringData"] for file in (EXAMPLES / STORE).glob("*.yaml") for one in load(file) if one["kind"] == "Secret"
    )
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, secret[key])
    with forwarded(path.devcluster.kubectl, path.place.runs, f"service/{STORE}", 7070) as url:
        store = Store(CheckpointSpec(root=f"s3://checkpoints/{name}", endpoint=url, region="us-east-1"))
        steps = committed_steps(store)
        newest, oldest = (Checkpoint(store, entry) for entry in (steps[0], steps[-1]))
        path_of = next(one for one in newest.leaves if one.startswith("model.") and "embedding" in one)
        rows_of = [np.asarray(one.array(one.leaves[path_of]), np.float32) for one in (newest, oldest)]
    assert steps[0].step > steps[-1].step
    same = (rows_of[0] == rows_of[1]).all(1) & (rows_of[0] != 0).all(1)
    return rows_of[0][int(np.flatnonzero(same)[0])].tobytes()


@promises.CORRUPTED
def test_a_flipped_bit_in_a_pod_is_found_and_its_process_is_named(
    path: WholePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.devcluster.cluster.backend != "native":
        pytest.skip("the pods' processes are inside the node of kind")
    name, kubectl, where = "corrupted", path.devcluster.kubectl, ("--namespace", path.place.runs)
    training = path.training_of(document(path, name, WITHOUT_END))
    try:
        training.apply()
        training.wait_for_step(EVERY)

        def saved_twice() -> bool:
            checkpoint = None if training.run is None else training.run.status.checkpoint
            return checkpoint is not None and checkpoint.step >= 2 * EVERY

        until(saved_twice, timeout_seconds=120, failure=lambda: str(training.run))
        row = constant_row(path, name, monkeypatch)
        pod = training.running_pod(1).name
        path.devcluster.faults.flip_bit(path.place.runs, pod, row, 13)

        def ended() -> bool:
            run = training.run
            return run is not None and any(entry.cause == "corrupted" for entry in run.status.history)

        until(ended, timeout_seconds=240, failure=lambda: str(training.run))
        run = training.run
        assert run is not None
        end = next(entry for entry in run.status.history if entry.cause == "corrupted")
        assert "copies of the state differ: 1 device of process 1 has wrong numbers; the run goes on from" in (
            end.message or ""
        )
        assert f"pod {pod}" in (end.message or "")
        steps = (end.to_step or 0) // EVERY * EVERY + 2 * EVERY
        kubectl(
            "patch",
            RESOURCE,
            name,
            *where,
            "--type=merge",
            f"--patch={json.dumps({'spec': {'trainer': {'steps': steps}}})}",
        )
        _, lines = path.finish(training)
        calm = path.training_of(document(path, "uncorrupted", steps))
        calm.apply()
        _, reference = path.finish(calm)
        found = compare(losses(lines, name), losses(reference, "uncorrupted"), steps)
        assert found.differences == ()
    finally:
        kubectl("delete", RESOURCE, name, "uncorrupted", *where, "--ignore-not-found", "--wait=false")
