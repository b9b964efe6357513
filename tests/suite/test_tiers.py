"""pytest selects for each tier and part the tests that `tier_of` and `part_of` assign to it."""

import itertools

import pytest
from _pytest.mark.expression import Expression

from tests.suite.tiers import SuitePart, Tier, expression, part_of, tier_of

MARKERS = ("alone", "cluster", "long", "programs", "slow", "variant")
COMBINATIONS = [
    frozenset(chosen) for size in range(len(MARKERS) + 1) for chosen in itertools.combinations(MARKERS, size)
]
CHOSEN = {(part, tier): Expression.compile(expression(part, tier)) for part in SuitePart for tier in Tier}


def selected(markers: frozenset[str], part: SuitePart, tier: Tier) -> bool:
    return CHOSEN[part, tier].evaluate(lambda name, **_: name in markers)


@pytest.mark.parametrize("markers", COMBINATIONS, ids=lambda markers: "-".join(sorted(markers)) or "none")
def test_every_test_is_run_by_one_part_of_each_tier_that_has_it(markers: frozenset[str]):
    tiers = {Tier.TEST: {Tier.TEST, Tier.ALL}, Tier.ALL: {Tier.ALL}, Tier.LONG: {Tier.LONG}}[tier_of(markers)]
    assert {(part, tier) for part in SuitePart for tier in Tier if selected(markers, part, tier)} == {
        (part_of(markers), tier) for tier in tiers
    }


def test_expressions_name_no_marker_that_pytest_does_not_know(pytestconfig: pytest.Config):
    known = {line.partition(":")[0].partition("(")[0] for line in pytestconfig.getini("markers")}
    assert set(MARKERS) <= known
    words = {word for part in SuitePart for tier in Tier for word in expression(part, tier).split()}
    assert words - {"and", "not", "or"} == set(MARKERS)


@pytest.mark.parametrize(
    ("markers", "tier", "part"),
    [
        ((), Tier.TEST, SuitePart.FAST),
        (("slow",), Tier.TEST, SuitePart.SLOW),
        (("slow", "variant"), Tier.ALL, SuitePart.SLOW),
        (("slow", "long"), Tier.LONG, SuitePart.SLOW),
        (("slow", "long", "variant"), Tier.LONG, SuitePart.SLOW),
        (("cluster",), Tier.TEST, SuitePart.CLUSTER),
        (("cluster", "slow"), Tier.TEST, SuitePart.CLUSTER),
        (("cluster", "alone", "variant"), Tier.ALL, SuitePart.ALONE),
        (("programs", "variant"), Tier.ALL, SuitePart.PROGRAMS),
    ],
)
def test_the_tier_and_the_part_of_a_test(markers: tuple[str, ...], tier: Tier, part: SuitePart):
    assert (tier_of(markers), part_of(markers)) == (tier, part)


def test_a_tier_has_a_command():
    assert [tier.command for tier in Tier] == ["make test", "make test-all", "make test-long"]
