"""A bit flips in the memory of one pod of three: the audit names its process, the run goes back, and ends with the bits
of a run in which no bit flipped.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.training import RESOURCE
from tests.cluster.whole_path import WholePath
from tests.suite import promises

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("path")]

STEPS, EVERY = 60, 20
"""Steps of the run, and between its audits."""


def document(path: WholePath, name: str, **audit: Any) -> dict[str, Any]:
    """A run on three hosts that is audited."""
    found = variant(path.document, name=name)
    spec = found["spec"]
    spec["accelerator"] |= {"slices": 3, "topology": "1x1"}
    spec["trainer"] |= {"steps": STEPS, "batchSize": 12, "evaluation": {"everySteps": 0}}
    spec["checkpoint"]["save"] = {"everySteps": EVERY}
    spec["recovery"] = {"audit": {"everySteps": EVERY} | audit}
    return found


@promises.CORRUPTED
def test_a_flipped_bit_in_a_pod_is_found_and_its_process_is_named(path: WholePath) -> None:
    name, kubectl, where = "corrupted", path.devcluster.kubectl, ("--namespace", path.place.runs)
    training = path.training_of(document(path, name, flipBit={"step": EVERY + 5, "process": 1}))
    calm = path.training_of(document(path, "uncorrupted"))
    try:
        training.apply()
        pod = training.running_pod(1).name
        _, lines = path.finish(training)
        run = training.run
        assert run is not None
        end = next(entry for entry in run.status.history if entry.cause == "corrupted")
        assert (
            f"step {2 * EVERY}: copies of the state differ: 1 device of process 1 has wrong numbers; the run goes on "
            f"from step {EVERY}" in (end.message or "")
        )
        assert f"pod {pod}" in (end.message or "")
        calm.apply()
        _, reference = path.finish(calm)
        found = compare(losses(lines, name), losses(reference, "uncorrupted"), STEPS)
        assert found.differences == ()
    finally:
        kubectl("delete", RESOURCE, name, "uncorrupted", *where, "--ignore-not-found", "--wait=false")
