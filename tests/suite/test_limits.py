"""Limits are multiplied by the machine's factor."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_devcluster import machine
from tests.suite.limits import limit, scale_timeouts


@pytest.fixture
def five_times_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "factor", lambda: 5.0)


class Item:
    """Stands in for a collected test. Its markers are in order from the closest to the farthest."""

    def __init__(self, *markers: pytest.MarkDecorator) -> None:
        self.markers = [marker.mark for marker in markers]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next((marker for marker in self.markers if marker.name == name), None)

    def add_marker(self, marker: pytest.MarkDecorator, append: bool = True) -> None:
        self.markers.insert(len(self.markers) if append else 0, marker.mark)


@pytest.mark.parametrize(
    ("markers", "seconds"),
    [
        ((), 3000),
        ((pytest.mark.slow,), 3000),
        ((pytest.mark.timeout(60),), 300),
        ((pytest.mark.slow, pytest.mark.timeout(60), pytest.mark.timeout(7)), 300),
    ],
    ids=["the default", "another marker", "its own", "its own and its module's"],
)
def test_timeouts_are_scaled_by_the_factor_of_the_machine(
    five_times_as_slow: None, markers: tuple[pytest.MarkDecorator, ...], seconds: int
) -> None:
    item: Any = Item(*markers)
    scale_timeouts([item], 600)
    assert item.get_closest_marker("timeout").args == (seconds,)


def test_the_suite_scales_the_default_timeout(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker.args == (limit(float(pytestconfig.getini("timeout"))),)


@pytest.mark.timeout(77)
def test_the_suite_scales_the_timeout_of_a_test(request: pytest.FixtureRequest) -> None:
    assert [marker.args for marker in request.node.iter_markers("timeout")] == [(limit(77),), (77,)]
