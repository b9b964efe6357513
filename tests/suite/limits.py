"""Time limits are multiplied by the machine's factor, and the report of a failed test says how slow the machine was.

The factor is measured once, before the workers start, unless `HALCYON_MACHINE_FACTOR` gives it. `until` multiplies its
own limit; every other limit is written `limit(SECONDS)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pytest

from halcyon_devcluster import machine
from halcyon_devcluster.machine import ProcessorTime, limit

__all__ = ["describe", "limit", "scale_timeouts", "set_factor"]


def set_factor(config: pytest.Config) -> None:
    """Measure the machine, and pass the factor to the workers and to the processes of tests through the environment."""
    if not hasattr(config, "workerinput") and machine.given_factor(os.environ) is None:
        os.environ[machine.VARIABLE] = f"{machine.measure(rounds=2).factor:.2f}"


def scale_timeouts(items: Iterable[pytest.Item], default_seconds: float) -> None:
    """Multiply the time limit of each test by the machine's factor."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker is not None and marker.args else default_seconds
        item.add_marker(pytest.mark.timeout(limit(seconds)), append=False)


def describe(factor: float, passed: ProcessorTime) -> str:
    """How slow the machine was, for the report of a test that failed. Pure."""
    busy = 1 - passed.idle / passed.total if passed.total > 0 else 0.0
    return (
        f"At the start the machine was {factor:.2f} times as slow as the reference machine, and limits are that much "
        f"longer. Since this test began its processors were busy for {busy:.0%} of the time, and "
        f"{passed.stolen_share:.0%} of it was stolen."
    )


class MachineReport:
    """Adds the speed of the machine to the report of each failed test."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Read the processor time at the start of a test."""
        self._began = machine.processor_time()
        return (yield)  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Add the sentence to the report of a failed test."""
        report: pytest.TestReport = yield  # type: ignore[assignment]
        if report.failed:
            report.sections.append(("machine", describe(machine.factor(), machine.processor_time().since(self._began))))
        return report  # type: ignore[return-value]
