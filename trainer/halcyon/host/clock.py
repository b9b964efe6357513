"""The two clocks of a process: a monotonic one for durations, and wall time for people."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_IMPORTED_AT = time.monotonic()


@dataclass(frozen=True)
class Clock:
    """Sources of time, replaceable in tests."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since any origin; never decreases."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970 in UTC; may jump."""

    def timestamp(self) -> str:
        """Now, as RFC 3339 in UTC with milliseconds."""
        return timestamp(self.wall())


def timestamp(seconds: float) -> str:
    """A time in seconds since 1970 as RFC 3339 in UTC with milliseconds, such as ``2026-03-01T12:00:00.250Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def microseconds(seconds: float) -> float:
    """Seconds to the microsecond: clocks are not more precise, and readers need no more."""
    return round(seconds, 6)


def process_age_seconds() -> float:
    """Seconds since the start of this process, including interpreter start and imports.

    On Linux, to a hundredth of a second; on other systems, since the import of this module.
    """
    try:
        started_ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_AT
