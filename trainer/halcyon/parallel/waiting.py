"""Waits until every process has its data, or any process has a preemption notice.

A step needs all processes. If one process waited for its data alone, the others would already be inside the step, and
after a notice they could not stop at the same step. So before such a step the processes exchange whether each has its
data and whether it has a notice. They continue when all have their data, or stop together when any has a notice.
Between two exchanges each process waits for its own data.
"""

from __future__ import annotations

from collections.abc import Callable

from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup

ROUND_SECONDS = 0.5


def wait_together(processes: ProcessGroup, notice: PreemptionNotice, mine: Callable[[float], bool]) -> bool:
    """Wait until all processes have their data. A collective, for the main thread.

    Args:
        processes: The processes.
        notice: This process's notice.
        mine: Waits at most this number of seconds, and returns whether this process has its data.

    Returns:
        False if a notice came first: all processes must stop.
    """
    while True:
        missing, noticed = processes.greatest(0.0 if mine(ROUND_SECONDS) else 1.0, float(notice.arrived))
        if not missing:
            return True
        if noticed:
            return False
