"""The trainer's end of the connection to its supervisor."""

import os
import select
import signal
import socket
import time
from collections.abc import Mapping

from halcyon.host.agent.lineage import Lineage
from halcyon.host.agent.lines import Lines
from halcyon.host.linux import end_with_parent

DESCRIPTOR = "HALCYON_AGENT_DESCRIPTOR"
"""The variable with the number of the socket that the trainer inherits."""


class Link:
    """The connection.

    Args:
        environ: The environment that the supervisor has set.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        end_with_parent(signal.SIGKILL)
        self._socket = socket.socket(fileno=int(environ[DESCRIPTOR]))
        self._lines = Lines(self._socket)
        self.is_spare = not select.select([self._socket], [], [], 0.0)[0]
        """Whether the process was not wanted yet when it began, so it has time to import what it will need."""
        self.starts_again = False
        """Whether the run had processes in these pods before this one."""
        self._began = time.monotonic()

    @property
    def age_seconds(self) -> float | None:
        """Seconds since a spare process was told to train: what it did before is no time of the run. None: its own age
        counts.
        """
        return time.monotonic() - self._began if self.is_spare else None

    def wait_until_wanted(self) -> None:
        """Wait until this is the pod's trainer. Ends the process if the supervisor has ended."""
        found = self._lines.wait_for("begin", None)
        if found is None:
            os._exit(0)
        self.starts_again, self._began = bool(found["begin"]), time.monotonic()

    def wait_for_others(self, seconds: float) -> Lineage:
        """Wait until the processes of all pods may join. Ends the process if the supervisor has ended.

        Raises:
            TimeoutError: They did not come in time.
        """
        found = self._lines.wait_for("go", seconds)
        if found is None:
            os._exit(0)
        return Lineage.read(found["go"])

    def wants_spare(self) -> None:
        """Tell the supervisor to prepare a spare process."""
        self._lines.send(spare=True)

    def committed(self, step: int) -> None:
        """Tell the supervisor which checkpoint is the newest; -1: there is none."""
        self._lines.send(committed=step)
