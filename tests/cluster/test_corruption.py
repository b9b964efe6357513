"""A bit flips in the memory of one pod of three, on two nodes: the audit names its process, the run avoids its node, goes
back, and ends with the bits of a run in which no bit flipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from halcyon_api.names import LABEL_ROLE, LABEL_RUN
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import variant
from halcyon_demo.training import RESOURCE, Training
from halcyon_devcluster.native import NativeCluster
from halcyon_devcluster.waiting import until
from halcyon_devcluster.worker import Worker
from tests.cluster.whole_path import WholePath
from tests.suite import promises
from tests.suite.limits import limit

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]

STEPS, EVERY = 60, 20
"""Steps of the run, and between its audits."""
_PROCESS = "jobset.sigs.k8s.io/job-index"
HELD = 3
"""Places of the second node that other pods hold at first, of four."""


def document(path: WholePath, name: str, **audit: Any) -> dict[str, Any]:
    """A run on three hosts that is audited."""
    found = variant(path.document, name=name)
    spec = found["spec"]
    spec["accelerator"] |= {"slices": 3, "topology": "1x1"}
    spec["trainer"] |= {"steps": STEPS, "batchSize": 12, "evaluation": {"everySteps": 0}}
    spec["checkpoint"]["save"] = {"everySteps": EVERY}
    spec["recovery"] = {"audit": {"everySteps": EVERY} | audit}
    spec["plan"] = "off"
    return found


@contextmanager
def second_node(path: WholePath) -> Iterator[Worker]:
    cluster = path.devcluster.cluster
    if not isinstance(cluster, NativeCluster):
        pytest.skip("a cluster of kind has one node")
    worker = cluster.worker(most_pods=1 + HELD)
    try:
        worker.up([path.images.trainer])
        yield worker
    finally:
        worker.down()


def spread(path: WholePath, training: Training, worker: Worker, number: int = 3) -> dict[int, str]:
    """Start a run of this many pods, at least one of them on each node; the second one has room for all of them then.
    Returns the node of each process.
    """
    kubectl, first = path.devcluster.kubectl, path.devcluster.cluster.paths.name
    container = {"name": "holder", "image": worker.pause}
    names = [f"holder-{number}" for number in range(HELD)]
    kubectl.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"nodeName": worker.name, "containers": [container], "terminationGracePeriodSeconds": 0},
            }
            for name in names
        ]
    )
    kubectl("wait", *(f"pod/{name}" for name in names), "--for=condition=Ready", f"--timeout={limit(60)}s")
    try:
        kubectl("cordon", first)
        training.apply()
        until(
            lambda: worker.name in nodes(path, training.name).values(),
            timeout_seconds=60,
            failure=lambda: f"no pod came to {worker.name}: {nodes(path, training.name)}",
        )
    finally:
        kubectl("uncordon", first)
    until(
        lambda: len(nodes(path, training.name)) == number,
        timeout_seconds=60,
        failure=lambda: f"not all pods have a node: {nodes(path, training.name)}",
    )
    found = nodes(path, training.name)
    kubectl("delete", "pod", *names, "--namespace=default", "--wait=false")
    assert set(found.values()) == {first, worker.name}
    return found


def nodes(path: WholePath, run: str) -> dict[int, str]:
    """The node of each process of the newest pods of a run that have one."""
    text = path.devcluster.kubectl(
        "get", "pods", "--namespace", path.place.runs, f"--selector={LABEL_RUN}={run},!{LABEL_ROLE}", "--output=json"
    )
    pods = json.loads(text)["items"]
    return {
        int(pod["metadata"]["labels"][_PROCESS]): pod["spec"]["nodeName"] for pod in pods if "nodeName" in pod["spec"]
    }


@promises.CORRUPTED
def test_the_node_of_a_flipped_bit_is_named_and_avoided_and_the_run_ends_with_the_right_bits(path: WholePath) -> None:
    name, kubectl, where = "corrupted", path.devcluster.kubectl, ("--namespace", path.place.runs)
    training = path.training_of(document(path, name, flipBit={"step": EVERY + 5, "process": 1}))
    calm = path.training_of(document(path, "uncorrupted"))
    try:
        with second_node(path) as worker:
            before = spread(path, training, worker)
            pod = training.running_pod(1).name
            training.wait_for_step(EVERY + 5)
            recovery = training.wait_for_recovery(training.flipped(EVERY + 5))
            after = nodes(path, name)
            _, lines = path.finish(training)
        run = training.run
        assert run is not None
        end = next(entry for entry in run.status.history if entry.cause == "corrupted")
        assert (
            f"step {2 * EVERY}: copies of the state differ: 1 device of process 1 has wrong numbers; the run goes on "
            f"from step {EVERY}" in (end.message or "")
        )
        assert f"pod {pod}" in (end.message or "")
        assert run.status.placement is not None
        assert [one.node for one in run.status.placement.avoided] == [before[1]]
        assert len(after) == 3
        assert before[1] not in after.values()
        assert recovery.resumed_step == EVERY
        calm.apply()
        _, reference = path.finish(calm)
        found = compare(losses(lines, name), losses(reference, "uncorrupted"), STEPS)
        assert found.differences == ()
    finally:
        kubectl("delete", RESOURCE, name, "uncorrupted", *where, "--ignore-not-found", "--wait=false")
