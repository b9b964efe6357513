"""An operator whose watches fall silent, on the real API server."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from halcyon_api.generate.crd import custom_resource_definition
from tests.cluster.conftest import DevCluster
from tests.cluster.link import linked
from tests.cluster.operators import OperatorProcess
from tests.cluster.scripted import Runs, build_scripted_trainer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def runs(devcluster: DevCluster, namespace: str) -> Runs:
    devcluster.kubectl.apply([custom_resource_definition()])
    return Runs(devcluster, namespace)


def test_watches_that_stop_delivering_are_opened_again(runs: Runs, python_image: str, tmp_path: Path) -> None:
    """The connections stay open but deliver nothing. The operator writes nothing for a suspended run, so only a watch
    can show the edit before the operator's check of all runs, five minutes after its start."""
    trainer, name = build_scripted_trainer(runs.devcluster, python_image), f"run-{secrets.token_hex(2)}"
    with linked(runs.devcluster.kubeconfig, tmp_path) as (link, kubeconfig):
        operator = OperatorProcess.start("operator", kubeconfig, runs.namespace, tmp_path, trainerImage=trainer)
        try:
            operator.await_ready()
            runs.apply(name, suspend=True)
            runs.in_phase(name, "Suspended")
            assert link.fall_silent() >= len(("trainingruns", "jobsets", "pods"))
            runs.patch(name, suspend=False)
            runs.wait(name, "started", lambda status: status["attempt"] == 1, seconds=150)
            assert operator.ready
        finally:
            operator.stop()
