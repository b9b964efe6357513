"""Trackers: other programs that show the numbers of a run, each fed by a thread of its own.

``tracker`` has the thread and what every tracker implements; ``opening`` makes the trackers of a run document. The
other modules are one tracker each; they import its library only when the run begins.
"""

from halcyon.telemetry.trackers.opening import open_trackers

__all__ = ["open_trackers"]
