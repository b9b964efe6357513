"""Limits are multiplied by the machine's factor."""

from __future__ import annotations

import pytest

from tests.suite.limits import limit


def test_the_suite_scales_the_default_timeout(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker.args == (limit(float(pytestconfig.getini("timeout"))),)


@pytest.mark.timeout(77)
def test_the_suite_scales_the_timeout_of_a_test(request: pytest.FixtureRequest) -> None:
    assert [marker.args for marker in request.node.iter_markers("timeout")] == [(limit(77),), (77,)]
