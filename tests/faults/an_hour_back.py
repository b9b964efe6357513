"""`halcyon` on a machine whose clock is an hour behind: ``python -m tests.faults.an_hour_back train run.yaml``."""

from __future__ import annotations

import time

HOUR = 3600

_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() - HOUR
time.time_ns = lambda: _time_ns() - HOUR * 10**9

from halcyon.cli import app  # noqa: E402 - it must not have taken the clock before

if __name__ == "__main__":
    app()
