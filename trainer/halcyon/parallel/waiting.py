"""Waiting for something that every process needs, and that each sees come for itself, with an ear for notices of preemption.

A step needs all processes. If one of them waited alone for what the step is made of, the others would be inside the step already, and a
notice could stop them at no step that all reach. So before such a step they meet: each says whether it has what it needs, and they go on
when all have, or leave together when a notice came. Between two meetings everybody waits for its own part.
"""

from __future__ import annotations

from collections.abc import Callable

from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.world import World

ROUND_SECONDS = 0.5


class Waiting:
    """The questions of one process to all, in the same order everywhere.

    Args:
        world: The processes.
        notice: Is asked after every step and every meeting.
    """

    def __init__(self, world: World, notice: PreemptionNotice) -> None:
        self._world = world
        self._notice = notice
        self._asked = 0

    def noticed(self) -> bool:
        """True when all processes must leave now. The same answer everywhere; all ask equally often."""
        self._asked += 1
        return self._notice.arrived(self._asked)

    def until(self, mine: Callable[[float], bool]) -> bool:
        """Wait until all processes have what they need. A collective, for the main thread.

        Args:
            mine: Waits for so many seconds at most and says whether this process has it.

        Returns:
            False: a notice came first, and all leave.
        """
        while not self._world.all(mine(ROUND_SECONDS)):
            if self.noticed():
                return False
        return True
