"""Limits grow with the machine's factor, and a test that fails says how slow the machine was.

The factor is measured once, before the workers start, unless `HALCYON_MACHINE_FACTOR` gives it. Waits through `until` grow by themselves; a
limit that is handed to anything else is written `limit(SECONDS)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pytest

from halcyon_devcluster import machine
from halcyon_devcluster.machine import ProcessorTime, limit

__all__ = ["describe", "limit", "scale_timeouts", "set_factor"]


def set_factor(config: pytest.Config) -> None:
    """Measure the machine, and hand the factor to the workers and to the processes of tests."""
    if not hasattr(config, "workerinput") and machine.given_factor(os.environ) is None:
        os.environ[machine.VARIABLE] = f"{machine.measure(rounds=2).factor:.2f}"


def scale_timeouts(items: Iterable[pytest.Item], default_seconds: float) -> None:
    """Let the time that each test may take grow with the machine's factor."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker is not None and marker.args else default_seconds
        item.add_marker(pytest.mark.timeout(limit(seconds)), append=False)


def describe(factor: float, passed: ProcessorTime) -> str:
    """How slow the machine was, for the report of a test that failed. Pure."""
    busy = 1 - passed.idle / passed.total if passed.total > 0 else 0.0
    return (
        f"At the start the machine was {factor:.2f} times as slow as the reference machine, and limits are that much longer. "
        f"Since this test began its processors were busy for {busy:.0%} of the time, and {passed.stolen_share:.0%} of it was stolen."
    )


class TellsOfTheMachine:
    """Adds to the report of each test that failed how slow the machine was."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Take the time at which a test begins."""
        self._began = machine.processor_time()
        return (yield)  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Add the sentence where it is wanted."""
        report: pytest.TestReport = yield  # type: ignore[assignment]
        if report.failed:
            report.sections.append(("machine", describe(machine.factor(), machine.processor_time().since(self._began))))
        return report  # type: ignore[return-value]
