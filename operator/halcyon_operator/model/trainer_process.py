"""Pod and port of the first trainer process of a run. Pure."""

from __future__ import annotations

from halcyon_api.spec.telemetry import TelemetrySpec
from halcyon_api.status.requests import read_recorded
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.views import PodView, RunView

DEFAULT_PORT = TelemetrySpec().port
_LAST_PORT = 65_535


def first_process(pods: tuple[PodView, ...], group: ProcessGroup) -> PodView | None:
    """The pod of process 0 of a group, if it runs and has an address."""
    return next((pod for pod in pods if pod.group == group and pod.process == (0, 0) and pod.running and pod.ip), None)


def trainer_port(run: RunView) -> int:
    """Telemetry port of the present processes. The spec may already have another port for the next ones."""
    port = (
        read_recorded(run.status.in_force).get("telemetry.port", DEFAULT_PORT)
        if run.status.in_force is not None
        else None
    )
    if isinstance(port, int) and 0 < port <= _LAST_PORT:
        return port
    return run.spec.telemetry.port if run.spec is not None else DEFAULT_PORT
