"""How long a run of the suite will take on this machine, said before it begins. Pure.

The seconds are those of the reference machine (two quiet cores), as the report of a run gave them. They are only used for the forecast.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.suite.tiers import Tier

LONGEST_MINUTES = 80
"""A run that takes longer may be cut off: CI ends it after 90 minutes."""

TIER_SECONDS = {Tier.TEST: 1140, Tier.ALL: 3300, Tier.LONG: 3600}
BUILD_SECONDS = {"programs": 560, "images": 200}


def minutes(tier: Tier, missing: Collection[str], factor: float) -> float:
    """Minutes that a tier takes where these builds are missing, each a member of `BUILD_SECONDS`."""
    return factor * (TIER_SECONDS[tier] + sum(BUILD_SECONDS[name] for name in missing)) / 60


def sentence(tier: Tier, missing: Collection[str], factor: float) -> str:
    """What is printed."""
    expected = minutes(tier, missing, factor)
    builds = f", {' and '.join(sorted(missing))} to be built" if missing else ""
    said = f"{tier.command} takes about {expected:.0f} minutes on this machine (factor {factor:.2f}{builds})."
    if expected <= LONGEST_MINUTES:
        return said
    return f"{said} That is more than {LONGEST_MINUTES} minutes: where CI ends a run after 90 minutes, this one will not finish."
