"""Numbers that a person reads: each is short, and none is shown as zero that is not."""

from __future__ import annotations

import pytest

from halcyon_api.counting import amount, percent


@pytest.mark.parametrize(
    ("ratio", "decimals", "shown"),
    [
        (0.0, 0, "0%"),
        (0.8, 0, "80%"),
        (0.123456, 1, "12.3%"),
        (1.2, 0, "120%"),
        (10.0, 0, "1000%"),
        (78_418.0, 0, "over 1,000%"),
        (1e300, 1, "over 1,000%"),
        (1e-9, 0, "under 1%"),
        (1e-9, 1, "under 0.1%"),
        (-0.0, 1, "0.0%"),
    ],
)
def test_a_share_that_is_no_percentage_is_a_bound(ratio: float, decimals: int, shown: str) -> None:
    assert percent(ratio, decimals) == shown


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [
        (0.0, 1, "0.0"),
        (-0.0, 4, "0.0000"),
        (1234.56, 1, "1,234.6"),
        (2.26991, 4, "2.2699"),
        (-0.5, 4, "-0.5000"),
        (1e-6, 1, "1e-06"),
        (0.0784183, 1, "0.0784"),
        (1e300, 4, "1e+300"),
    ],
)
def test_an_amount_has_digits_whatever_its_size(value: float, decimals: int, shown: str) -> None:
    assert amount(value, decimals) == shown
