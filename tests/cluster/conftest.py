"""The development cluster as a fixture: a real Kubernetes for every test marked `cluster`.

A running cluster is used and left running, so that work on tests needs no set-up. A session without workers deletes the
cluster that it created. Several workers share one cluster: `python -m tests.suite` creates it before they start and
deletes it after they end. Each test that creates objects has its own `namespace`.

The tests of a file stay on one worker, in their order, because they share its fixtures; so do tests with the same
`xdist_group`.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from halcyon_devcluster import Cluster, DevclusterError, Faults, Kubectl, open_cluster
from halcyon_devcluster.audit import AuditLog
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.progress import ConsoleProgress
from tests.cluster.life import life
from tests.cluster.scripted import name, operator, runs, served
from tests.cluster.whole_path import path, undisturbed
from tests.suite.groups import set_groups

__all__ = ["life", "name", "operator", "path", "runs", "served", "undisturbed"]
PROGRESS = ConsoleProgress(Console(stderr=True))
LAST = "test_used_rights.py"
"""Checks the requests that the operators made in all other tests, so it runs last."""
LEFT_OUT = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    items.sort(key=lambda item: item.path.name == LAST)
    set_groups([item for item in items if item.path.parent == Path(__file__).parent], config)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember the cluster's tests that are not in this session."""
    for item in items:
        if item.get_closest_marker("cluster") is not None:
            item.config.stash.setdefault(LEFT_OUT, []).append(item.nodeid)


@dataclass(frozen=True)
class DevCluster:
    """The development cluster, faults to make in it, and its audit log."""

    cluster: Cluster
    faults: Faults
    audit: AuditLog
    """Has the requests since the first test. Only one test may read it."""

    @property
    def kubeconfig(self) -> Path:
        return self.cluster.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl

    def load(self, image: str) -> str:
        """Load an image so that pods can use it. Quick if the node already has it."""
        return self.cluster.load(image)


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    """The cluster `halcyon`: up, with JobSet."""
    try:
        cluster = open_cluster(progress=PROGRESS)
    except DevclusterError as why:
        pytest.fail(str(why))
    ran_already = cluster.status().ready
    cluster.up()
    yield DevCluster(cluster, Faults(cluster), AuditLog(cluster.paths.audit_log))
    if not ran_already and "PYTEST_XDIST_WORKER" not in os.environ:
        cluster.down()


@pytest.fixture(scope="session")
def python_image(devcluster: DevCluster) -> str:
    """An image with only Python, loaded on the node."""
    return devcluster.load(build(Buildable.BASE, cache=devcluster.cluster.paths.cache, progress=PROGRESS))


@pytest.fixture
def namespace(devcluster: DevCluster) -> Iterator[str]:
    """A new namespace that enforces the restricted pod profile.

    Deleted after the test, without waiting for the deletion.
    """
    name = f"test-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    devcluster.kubectl.apply([document])
    yield name
    with contextlib.suppress(DevclusterError):
        devcluster.kubectl("delete", "namespace", name, "--wait=false")
