"""The objects of every row of the hardware table, judged by the real API server, JobSet's webhook and the pod security profiles.

No pod of a TPU or GPU can run here. What can be known without one is: the objects are valid, and the profile that a namespace enforces lets
in what docs/hardware.md says it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster import DevclusterError
from tests.cluster.conftest import DevCluster

pytestmark = pytest.mark.cluster

GOLDEN = Path(__file__).parents[1] / "operator" / "golden"
ROWS = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
FAST = [name for name in ROWS if name.endswith("gpu-direct")]


def jobset_of(name: str) -> dict[str, Any]:
    (jobset,) = (document for document in yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()) if document["kind"] == "JobSet")
    del jobset["metadata"]["ownerReferences"]
    return jobset


def try_out(devcluster: DevCluster, namespace: str, document: dict[str, Any]) -> str:
    document["metadata"]["namespace"] = namespace
    return devcluster.kubectl("create", "--dry-run=server", "--namespace", namespace, "--filename=-", stdin=yaml.safe_dump(document))


def pod_of(name: str) -> dict[str, Any]:
    """A pod as the Job controller would make it."""
    template = jobset_of(name)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    template["spec"].pop("priorityClassName", None)  # of another cluster, as is the service account
    template["spec"].pop("serviceAccountName", None)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", **template["metadata"]}, "spec": template["spec"]}


@pytest.mark.parametrize("name", ROWS)
def test_jobset_takes_the_objects_of_every_row(devcluster: DevCluster, namespace: str, name: str) -> None:
    assert "created" in try_out(devcluster, namespace, jobset_of(name))


@pytest.mark.parametrize("name", ROWS)
def test_the_api_server_takes_the_job_of_every_row(devcluster: DevCluster, namespace: str, name: str) -> None:
    spec = jobset_of(name)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert "created" in try_out(devcluster, namespace, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": spec})


@pytest.mark.parametrize("name", [name for name in ROWS if name not in FAST])
def test_the_restricted_profile_lets_the_pods_in(devcluster: DevCluster, namespace: str, name: str) -> None:
    assert "created" in try_out(devcluster, namespace, pod_of(name))


@pytest.mark.parametrize("name", FAST)
def test_the_restricted_profile_keeps_out_what_shares_the_node(devcluster: DevCluster, namespace: str, name: str) -> None:
    with pytest.raises(DevclusterError, match=r"violates PodSecurity .*restricted volume types.*hostPath"):
        try_out(devcluster, namespace, pod_of(name))
