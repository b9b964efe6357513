"""Telemetry of a trainer process while it runs and when it ends.

The loop reports each fact once, to `RunReporter`, which replaces the one `State`. `progress_report` and ``metrics`` are
two tables over the state, and ``server`` answers with them from its own threads. ``log`` writes JSON lines, or
``progress_line`` a live line on a terminal; ``termination`` writes the termination report for the kubelet. This
package uses no device and does not import JAX.
"""

from halcyon.host.clock import Clock
from halcyon.telemetry.log import EventLog, JsonLog, open_log
from halcyon.telemetry.log_line import RunIdentity
from halcyon.telemetry.reporter import RunReporter
from halcyon.telemetry.requests import ProfileRequests, SaveRequests
from halcyon.telemetry.server import TelemetryServer
from halcyon.telemetry.state import RunPlan, StepReport
from halcyon.telemetry.termination import termination_report, write_termination_report

__all__ = [
    "Clock",
    "EventLog",
    "JsonLog",
    "ProfileRequests",
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
