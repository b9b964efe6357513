"""What a training tells of itself while it runs and when it ends.

The loop reports each fact once, to `RunReporter`; everything else reads from there. ``log`` writes JSON lines, or ``progress_line`` a live
line on a terminal; ``server`` answers ``/status``, ``/metrics`` and ``/healthz`` from its own thread; ``termination`` leaves the last word
for the kubelet. Nothing here touches a device, and none of it imports JAX.
"""

from halcyon.telemetry.clock import Clock
from halcyon.telemetry.log import EventLog, JsonLog, RunIdentity, open_log
from halcyon.telemetry.observation import RunPlan, StepReport
from halcyon.telemetry.reporter import RunReporter
from halcyon.telemetry.save_requests import SaveRequests
from halcyon.telemetry.server import TelemetryServer
from halcyon.telemetry.termination import termination_report, write_termination_report

__all__ = [
    "Clock",
    "EventLog",
    "JsonLog",
    "RunIdentity",
    "RunPlan",
    "RunReporter",
    "SaveRequests",
    "StepReport",
    "TelemetryServer",
    "open_log",
    "termination_report",
    "write_termination_report",
]
