"""Times for people are in the zone of this machine, which they name."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from halcyon_api.local_times import local_time


@pytest.fixture(autouse=True)
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (1_772_366_400.5, "2026-03-01 17:30:00 IST"),
        ("2026-03-01T12:00:00.500Z", "2026-03-01 17:30:00 IST"),
        ("2026-03-01T13:00:00+01:00", "2026-03-01 17:30:00 IST"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_time_is_shown_in_the_local_zone(given: float | str, shown: str) -> None:
    assert local_time(given) == shown


def test_without_the_date() -> None:
    assert local_time(1_772_366_400, date=False) == "17:30:00 IST"
