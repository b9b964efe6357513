"""Asks the supervisor of the pod for a spare process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halcyon.host.agent.link import Link
from halcyon.host.memory import machine_memory
from halcyon.run.callback import Callback

if TYPE_CHECKING:
    from halcyon.data.examples import Batch
    from halcyon.step.state import TrainState

SPARE_BYTES = 4 * 2**30
"""A spare process takes about half a GiB, so there is none in a pod with less memory than this."""


class Spare(Callback):
    """Asks for it after the first step: the start of this process does not need the processor any more."""

    def __init__(self, link: Link) -> None:
        memory = machine_memory()
        self._link = link if memory is not None and memory >= SPARE_BYTES else None

    def stepped(self, step: int, state: TrainState, batch: Batch) -> None:
        """See `Callback`."""
        if self._link is not None:
            self._link.wants_spare()
            self._link = None
