"""A tier says how much is tested; a part says which environment the tests need. Pure.

| tier | command | what is in it |
|---|---|---|
| test | make test | every promise once |
| all | make test-all | the further cases of each promise too (marker `variant`) |
| long | make test-long | hundreds of kills and flips, for many minutes (marker `long`) |

| part | marker | what it needs |
|---|---|---|
| fast | none | one process |
| slow | `slow` | separate processes, no cluster |
| cluster | `cluster` | the development cluster, which its tests share |
| alone | `cluster` and `alone` | the development cluster for itself |
| programs | `programs` | the compilers of accelerators, in an environment of their own |
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Tier(StrEnum):
    """How much is tested."""

    TEST = "test"
    ALL = "all"
    LONG = "long"

    @property
    def command(self) -> str:
        """The command that runs the tier."""
        return "make test" if self is Tier.TEST else f"make test-{self}"


class SuitePart(StrEnum):
    """The environment that the tests need, in the order in which the parts run."""

    FAST = "fast"
    SLOW = "slow"
    CLUSTER = "cluster"
    ALONE = "alone"
    PROGRAMS = "programs"


_PARTS = {
    SuitePart.FAST: "not slow and not cluster and not programs",
    SuitePart.SLOW: "slow and not cluster and not programs",
    SuitePart.CLUSTER: "cluster and not alone and not programs",
    SuitePart.ALONE: "cluster and alone and not programs",
    SuitePart.PROGRAMS: "programs",
}
_TIERS = {Tier.TEST: "not variant and not long", Tier.ALL: "not long", Tier.LONG: "long"}


def expression(part: SuitePart, tier: Tier) -> str:
    """The value of pytest's `-m` that selects the tests of a part in a tier.

    The tier `all` includes the tier `test`.
    """
    return f"{_PARTS[part]} and {_TIERS[tier]}"


def folder(part: SuitePart) -> str:
    """The folder that has all tests of a part.

    Each worker process imports every file of it, so a smaller folder saves time.
    """
    if part is SuitePart.PROGRAMS:
        return "tests/programs"
    return "tests/cluster" if part in (SuitePart.CLUSTER, SuitePart.ALONE) else "tests"


def tier_of(markers: Collection[str]) -> Tier:
    """The smallest tier that runs a test with these markers."""
    if "long" in markers:
        return Tier.LONG
    return Tier.ALL if "variant" in markers else Tier.TEST


def part_of(markers: Collection[str]) -> SuitePart:
    """The part that runs a test with these markers."""
    if "programs" in markers:
        return SuitePart.PROGRAMS
    if "cluster" in markers:
        return SuitePart.ALONE if "alone" in markers else SuitePart.CLUSTER
    return SuitePart.SLOW if "slow" in markers else SuitePart.FAST
