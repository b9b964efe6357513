"""The objects of every row of the hardware table, checked by the API server's validation and the pod security profiles.

No TPU or GPU pod can run here. Two facts can be tested without one: the objects are valid, and the profile that a
namespace enforces admits exactly what docs/hardware.md says. tests/cluster/test_hardware.py checks the same rows with
JobSet's webhook.
"""

from __future__ import annotations

import pytest

from tests.apiserver.api import Api, Refused
from tests.apiserver.rows import ROWS, job_of, pod_of
from tests.operator.test_fabrics import CUSTOM, KINDS, jobset
from tests.operator.test_fabrics import pod_of as pod_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAST = [name for name in ROWS if name.endswith("gpu-direct")]


@pytest.mark.parametrize("name", ROWS)
def test_the_api_server_accepts_the_job_of_every_row(api: Api, shared_namespace: str, name: str) -> None:
    api.create(job_of(name), shared_namespace, dry_run=True)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in FAST])
def test_the_restricted_profile_admits_ordinary_pods(api: Api, shared_namespace: str, name: str) -> None:
    api.create(pod_of(name), shared_namespace, dry_run=True)


@pytest.mark.parametrize("name", FAST)
def test_the_restricted_profile_rejects_pods_that_mount_node_directories(
    api: Api, shared_namespace: str, name: str
) -> None:
    with pytest.raises(Refused, match=r"violates PodSecurity .*restricted volume types.*hostPath"):
        api.create(pod_of(name), shared_namespace, dry_run=True)


@pytest.mark.parametrize("name", [*KINDS, "ours"])
def test_the_restricted_profile_admits_pods_of_a_fabric(api: Api, shared_namespace: str, name: str) -> None:
    spec = pod_with(jobset(name, KINDS.get(name, "gb200"), {"fabrics": {"ours": CUSTOM}}))
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    api.create(made, shared_namespace, dry_run=True)
