"""When a checkpoint is saved: by steps, by time, or at the best interval, which follows from the cost of a save and
from how often the run is stopped.

Frequent saves cost the time for which each save blocks the loop. Rare saves cost the steps that are repeated after a
stop. Young ("A first order approximation to the optimum checkpoint interval", 1974) derived the interval at which both
cost the same; Daly ("A higher order estimate of the optimum checkpoint interval for restart dumps", 2006) added the
terms that matter if saves are expensive or stops are frequent. Here the cost of a save is only the time for which it
blocks the loop, because the rest runs beside the steps. Only one save is in flight at a time, so the interval is at
least the duration of a save.
"""

import math

from halcyon_api.spec.checkpoint import CheckpointSpec

PRIOR_SECONDS = 4 * 3600.0
"""Mean time between stops of a run without a stop so far: as if it had trained for this time and been stopped once."""

FIRST_GUESS_SECONDS = 1.0
"""Assumed time for which a save blocks the loop, before the first one is measured."""


def save_interval(
    spec: CheckpointSpec, mean_seconds: float, blocked_seconds: float | None, save_seconds: float
) -> float | None:
    """Seconds between saves by time; None without saves by time.

    Args:
        spec: ``save.everySeconds``, or ``save.auto`` for the best interval.
        mean_seconds: Mean time between stops.
        blocked_seconds: Time for which a save blocks the loop; None before the first one.
        save_seconds: Usual time from the start of a save to its commit.
    """
    if not spec.save.auto:
        return spec.save.every_seconds or None
    blocked_seconds = FIRST_GUESS_SECONDS if blocked_seconds is None else blocked_seconds
    return best_interval(blocked_seconds, mean_seconds, save_seconds)


def mean_time_between_stops(up_seconds: float, stops: int) -> float:
    """Estimate in seconds, from the observed stops and a prior of one stop in `PRIOR_SECONDS`, whose weight falls with
    time.

    Args:
        up_seconds: Total time that the run has been up.
        stops: Number of stops in that time.
    """
    return (up_seconds + PRIOR_SECONDS) / (stops + 1)


def best_interval(blocked_seconds: float, mean_seconds: float, save_seconds: float = 0.0) -> float:
    """Seconds from the start of a save to the start of the next one.

    Args:
        blocked_seconds: Time for which a save blocks the loop.
        mean_seconds: Mean time between stops.
        save_seconds: Time from the start of a save to its commit.
    """
    cost = max(blocked_seconds, 1e-3)
    if cost >= 2 * mean_seconds:
        return max(mean_seconds, save_seconds)
    share = cost / (2 * mean_seconds)
    daly = math.sqrt(2 * cost * mean_seconds) * (1 + math.sqrt(share) / 3 + share / 9) - cost
    return max(daly + cost, save_seconds)
