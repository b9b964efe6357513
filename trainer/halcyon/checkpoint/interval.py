"""How often to save, from what a save costs and how often a run is stopped.

Saving often costs the time that each save holds the loop up; saving seldom costs the steps that are done again after a stop. Young ("A
first order approximation to the optimum checkpoint interval", 1974) found the interval at which both cost the same, Daly ("A higher order
estimate of the optimum checkpoint interval for restart dumps", 2006) the terms that matter when saves cost much or stops come often. The
cost of a save is here what it blocks, for the rest goes on beside the steps; and as one save is under way at a time, no interval is shorter
than a save takes.
"""

from __future__ import annotations

import math

PRIOR_SECONDS = 4 * 3600.0
"""Mean time between stops of a run that has seen none yet: as if it had trained this long and been stopped once."""

FIRST_GUESS_SECONDS = 1.0
"""What a save is taken to block before the first was measured."""


def mean_time_between_stops(up_seconds: float, stops: int) -> float:
    """Estimate in seconds: what was seen, and one stop in `PRIOR_SECONDS` beside it, which soon counts for little.

    Args:
        up_seconds: How long the run has been up in all its starts.
        stops: How often it was stopped in that time.
    """
    return (up_seconds + PRIOR_SECONDS) / (stops + 1)


def best_interval(blocked_seconds: float, mean_seconds: float, save_seconds: float = 0.0) -> float:
    """Seconds from the begin of a save to the begin of the next.

    Args:
        blocked_seconds: How long a save holds the loop up.
        mean_seconds: Mean time between stops.
        save_seconds: From a save's begin to its commit.
    """
    cost = max(blocked_seconds, 1e-3)
    if cost >= 2 * mean_seconds:
        return max(mean_seconds, save_seconds)
    share = cost / (2 * mean_seconds)
    daly = math.sqrt(2 * cost * mean_seconds) * (1 + math.sqrt(share) / 3 + share / 9) - cost
    return max(daly + cost, save_seconds)
