"""`halcyon` on a machine whose clock is an hour behind: ``python -m tests.faults.an_hour_back train run.yaml``."""

from __future__ import annotations

import time

HOUR = 3600


def main() -> None:
    """Set this process's clock back before the trainer is imported, then run `halcyon`."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - HOUR
    time.time_ns = lambda: now_ns() - HOUR * 10**9
    from halcyon.commands.main import app

    app()


if __name__ == "__main__":
    main()
