"""How long a run of the suite will take on this machine, said before it begins. Pure.

Measured on the reference machine (two quiet cores): the tier `test`, by the report of a run, and the programs, before they became one
module. The images and the tier `all` were measured on a busy machine. The tier `long` is an estimate: no run of it was measured yet.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.suite.tiers import Tier

LONGEST_MINUTES = 80
"""A run that takes longer may be cut off: CI ends it after 90 minutes."""

TIER_SECONDS = {Tier.TEST: 1065, Tier.ALL: 3458, Tier.LONG: 3600}
BUILD_SECONDS = {"programs": 614, "images": 305}


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
