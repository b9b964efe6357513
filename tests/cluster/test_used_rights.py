"""The last test of the cluster suite: the operators sent no request that they had no right to, and they used every
right.

If only a part of the suite ran, or a test failed, an unused right proves nothing; a denied request always does. The
suite's other tests run in other processes, which `python -m tests.suite` starts. It passes on in the environment when
they began and whether all of them ran.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_demo.install import helm
from halcyon_devcluster.audit import Request, requests_since
from halcyon_devcluster.engine import Backend
from tests.cluster.conftest import LEFT_OUT, DevCluster
from tests.cluster.rights import NOT_REQUESTED, RELEASE, Right, granted, judge
from tests.suite.run import ALL_CLUSTER_TESTS_RAN, CLUSTER_TESTS_BEGAN

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

CHART = Path(__file__).parents[2] / "charts" / "halcyon"


def is_operator(user: str) -> bool:
    """Whether a user is an operator of the suite: the chart names the service account after the release."""
    return user.startswith("system:serviceaccount:") and user.endswith(":halcyon")


def chart_rights(devcluster: DevCluster) -> frozenset[Right]:
    """All rights that the chart grants when every feature that needs rights is enabled."""
    values: dict[str, Any] = {
        "image": {"repository": "o"},
        "trainerImage": {"repository": "t"},
        "watchNamespaces": ["a"],
        "watchNodes": True,
        "kueue": {"enabled": True, "priorityBoost": True, "multiKueue": True},
    }
    text = helm(devcluster.cluster, "template", "halcyon", CHART, "--values", "-", stdin=yaml.safe_dump(values))
    roles = [found for found in yaml.safe_load_all(text) if found and found["kind"] in ("Role", "ClusterRole")]
    return granted(rule for role in roles for rule in role["rules"])


def whole(request: pytest.FixtureRequest) -> bool:
    """Whether the whole cluster suite has run without a failure."""
    if request.session.testsfailed:
        return False
    if os.environ.get(ALL_CLUSTER_TESTS_RAN) == "1":
        return True
    ran = {item.path for item in request.session.items}
    left_out = request.config.stash.get(LEFT_OUT, [])
    return ran >= set(Path(__file__).parent.glob("test_*.py")) and not left_out


def requests_since_start(devcluster: DevCluster) -> Iterator[Request]:
    """The requests to the API server since the tests began, as far as they matter here."""
    if began := os.environ.get(CLUSTER_TESTS_BEGAN):
        # Requests of operators, and changes of rights.
        about = (f':{RELEASE}"', "rbac.authorization.k8s.io")
        path = devcluster.cluster.paths.audit_log
        return requests_since(path, datetime.fromisoformat(began), lambda line: any(word in line for word in about))
    return devcluster.audit.new()


def test_the_operators_used_all_their_rights_and_requested_no_others(
    devcluster: DevCluster, request: pytest.FixtureRequest
) -> None:
    if devcluster.cluster.backend is Backend.KIND:
        pytest.skip("the API server of a kind cluster keeps no audit log")
    rights = chart_rights(devcluster)
    findings = judge(requests_since_start(devcluster), is_operator, rights)
    for right in sorted(rights):
        print(f"{findings.used[right]:7d}  {right}" + ("  (no request needed)" if right in NOT_REQUESTED else ""))
    for found in (*findings.denied, *findings.ungranted):
        print(found)
    assert not findings.denied, "the chart gives too few rights"
    assert not findings.ungranted, "the operators have rights that are not from the chart"
    if whole(request):
        assert not findings.unused, "the chart grants rights that no operator used"
        assert not findings.needless, "an exception in tests/cluster/rights.py is not needed"
