"""A pod's place in its run, as its supervisor needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halcyon_api.names import AGENT_PORT


@dataclass(frozen=True)
class Place:
    """The pod's place in its run.

    Attributes:
        process: Index of its process.
        processes: Number of processes.
        leader: Host of the supervisor beside process 0.
        port: Its port.
        token: Secret of the run's pods.
        group: Attempt and JobSet restart: a supervisor of another group is turned away.
        termination_log: Where the trainer writes its report.
        forgives: Whether a process that fails may start again in its pod. Each restart of the JobSet took the budget of
            two failures, or of three where a pod may leave its node.
        leaves_node: Whether the pod of the process that fails for the second time may leave its node.
    """

    process: int
    processes: int
    leader: str
    port: int
    token: str
    group: str
    termination_log: Path
    forgives: bool = True
    leaves_node: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place:
        """The place that the operator's variables say. Not by `halcyon_api.environment`, whose library imports slowly.

        Raises:
            KeyError, ValueError: A variable is missing or malformed.
        """
        value = {name: environ[f"HALCYON_{name}"] for name in _VARIABLES}
        hosts = int(value["HOSTS_PER_SLICE"])
        process = int(value["JOB_INDEX"]) * hosts + int(value["COMPLETION_INDEX"])
        leaves = environ.get("HALCYON_LEAVES_NODE") == "1"
        left = int(environ.get("HALCYON_RESTARTS_LEFT", 1)) - (2 + leaves) * int(value["RESTART"])
        host = value["COORDINATOR"].rpartition(":")[0].removeprefix("[").removesuffix("]")
        return cls(
            process,
            int(value["SLICES"]) * hosts,
            "localhost" if process == 0 else host,
            int(environ.get("HALCYON_AGENT_PORT", AGENT_PORT)),
            environ.get("HALCYON_SAVE_TOKEN", ""),
            f"{value['ATTEMPT']}.{value['RESTART']}",
            Path(environ.get("HALCYON_TERMINATION_LOG", "/dev/termination-log")),
            left > 0,
            leaves and left > 1,
        )


_VARIABLES = ("ATTEMPT", "RESTART", "JOB_INDEX", "COMPLETION_INDEX", "SLICES", "HOSTS_PER_SLICE", "COORDINATOR")
