"""Waits until every process has its data, or any has a notice of preemption.

A step needs all processes. If one of them waited alone for what the step is made of, the others would be inside the step already, and a
notice could stop them at no step that all reach. So before such a step they meet: each says whether it has what it needs and whether it has
a notice, and they go on when all have, or leave together when any has one. Between two meetings everybody waits for its own part.
"""

from __future__ import annotations

from collections.abc import Callable

from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup

ROUND_SECONDS = 0.5


def wait_together(processes: ProcessGroup, notice: PreemptionNotice, mine: Callable[[float], bool]) -> bool:
    """Wait until all processes have what they need. A collective, for the main thread.

    Args:
        processes: The processes.
        notice: This process's.
        mine: Waits for at most this number of seconds and returns whether this process has it.

    Returns:
        False: a notice came first, and all leave.
    """
    while True:
        missing, noticed = processes.greatest(0.0 if mine(ROUND_SECONDS) else 1.0, float(notice.arrived))
        if not missing:
            return True
        if noticed:
            return False
