"""Forecast of the duration of a run of the suite on this machine, printed at the start. Pure.

The seconds of the tier `test` are those of a run's report on a machine with the factor 1. The programs (before they
became one module) were measured on the reference machine, which has two idle cores. The images were measured on a busy
machine. The tier `all` is a run on a machine with the factor 1 and nothing built (5,452 seconds), less the builds. The
tier `long` is an estimate: it is not measured yet.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.suite.tiers import Tier

LONGEST_MINUTES = 80
"""CI may stop a longer run: its limit is 90 minutes."""

TIER_SECONDS = {Tier.TEST: 1080, Tier.ALL: 4533, Tier.LONG: 3600}
BUILD_SECONDS = {"programs": 614, "images": 305}


def minutes(tier: Tier, missing: Collection[str], factor: float) -> float:
    """Minutes that a tier takes if these builds are missing. Each is a key of `BUILD_SECONDS`."""
    return factor * (TIER_SECONDS[tier] + sum(BUILD_SECONDS[name] for name in missing)) / 60


def sentence(tier: Tier, missing: Collection[str], factor: float) -> str:
    """The text of the forecast."""
    expected = minutes(tier, missing, factor)
    builds = f", {' and '.join(sorted(missing))} to be built" if missing else ""
    line = f"{tier.command} takes about {expected:.0f} minutes on this machine (factor {factor:.2f}{builds})."
    if expected <= LONGEST_MINUTES:
        return line
    return (
        f"{line} That is more than {LONGEST_MINUTES} minutes: where CI ends a run after 90 minutes, this one will not "
        "finish."
    )
