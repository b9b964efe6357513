"""Limits are multiplied by the machine's factor, and the report of a failed test says how slow the machine was."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from halcyon_devcluster import machine
from halcyon_devcluster.machine import VARIABLE, ProcessorTime, Reading
from tests.suite import limits
from tests.suite.limits import MachineReport, describe, limit, scale_timeouts, set_factor


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


@pytest.mark.parametrize(
    ("given", "worker", "factor"),
    [(None, False, "3.25"), ("7", False, "7"), (None, True, None)],
    ids=["measured", "given", "in a worker"],
)
def test_the_factor_is_measured_once_for_all_processes(
    monkeypatch: pytest.MonkeyPatch, given: str | None, worker: bool, factor: str | None
) -> None:
    monkeypatch.setattr(machine, "measure", lambda rounds: Reading(3.25, 0.0, 2))
    monkeypatch.delenv(VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(VARIABLE, given)
    config: Any = SimpleNamespace(workerinput={}) if worker else SimpleNamespace()
    set_factor(config)
    assert os.environ.get(VARIABLE) == factor


def test_the_slowness_of_the_machine_is_described() -> None:
    assert describe(2.5, ProcessorTime(200, 50, 30)) == (
        "At the start the machine was 2.50 times as slow as the reference machine, and limits are that much longer. "
        "Since this test began its processors were busy for 75% of the time, and 15% of it was stolen."
    )
    assert "busy for 0% of the time, and 0%" in describe(1.0, ProcessorTime(0, 0, 0)), "where the kernel counts nothing"


@pytest.mark.parametrize("failed", [True, False])
def test_a_failed_test_reports_how_slow_the_machine_was(
    monkeypatch: pytest.MonkeyPatch, five_times_as_slow: None, failed: bool
) -> None:
    times = itertools.chain([ProcessorTime(100, 0, 0)], itertools.repeat(ProcessorTime(200, 10, 40)))
    monkeypatch.setattr(limits.machine, "processor_time", lambda: next(times))
    plugin = MachineReport()
    _finish(plugin.pytest_runtest_protocol(), None)  # type: ignore[arg-type]
    report = SimpleNamespace(failed=failed, sections=[])
    assert _finish(plugin.pytest_runtest_makereport(), report) is report  # type: ignore[arg-type]
    expected = [("machine", describe(5.0, ProcessorTime(100, 10, 40)))]
    assert report.sections == (expected if failed else [])


def _finish(hook: Generator[None, Any, Any], result: Any) -> Any:
    """Run a hook wrapper around a hook that returns `result`."""
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(result)
    return ended.value.value
