"""How much slower this machine is than the reference machine, and how limits grow by that."""

import os

import pytest

from halcyon_devcluster import machine
from halcyon_devcluster.machine import LARGEST_FACTOR, REFERENCE_SECONDS, VARIABLE, ProcessorTime, Reading

STAT = "cpu  100 20 30 4000 50 6 7 800 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 1\n"


def test_the_time_of_all_processors_is_read_from_the_first_line():
    time = machine.parse_processor_time(STAT)
    assert (time.total, time.idle, time.stolen) == pytest.approx((50.13, 40.5, 8.0))
    assert machine.parse_processor_time(STAT, ticks=10).stolen == 80


def test_the_stolen_share_is_computed_between_two_readings():
    passed = ProcessorTime(110, 40, 25).since(ProcessorTime(10, 20, 5))
    assert (passed, passed.stolen_share) == (ProcessorTime(100, 20, 20), 0.2)
    assert ProcessorTime(0, 0, 0).stolen_share == 0, "if the kernel counts nothing"


@pytest.mark.parametrize(
    ("seconds", "rounds", "factor"),
    [
        ([1, 1], 1, 1),
        ([3, 3], 1, 3),
        ([1, 4], 1, 2.5),
        ([6, 6], 2, 3),
        ([0.5, 0.5], 1, 1),
        ([1000, 1000], 1, LARGEST_FACTOR),
    ],
    ids=["the reference machine", "slower", "one slow core", "two rounds", "faster", "extremely slow"],
)
def test_the_factor_is_the_mean_of_the_cores_within_bounds(seconds: list[float], rounds: int, factor: float):
    assert machine.factor_of([one * REFERENCE_SECONDS for one in seconds], rounds) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("environ", "factor"),
    [
        ({}, None),
        ({VARIABLE: ""}, None),
        ({VARIABLE: "1"}, 1),
        ({VARIABLE: "2.5"}, 2.5),
        ({VARIABLE: "1e9"}, LARGEST_FACTOR),
    ],
)
def test_a_given_factor_is_used(environ: dict[str, str], factor: float | None):
    assert machine.given_factor(environ) == factor


@pytest.mark.parametrize("text", ["0.9", "-3", "nan"])
def test_a_factor_below_one_is_refused(text: str):
    with pytest.raises(ValueError, match=f"{VARIABLE} is {text}: set it to a number of at least 1, or leave it out"):
        machine.given_factor({VARIABLE: text})


def test_a_factor_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="fast"):
        machine.given_factor({VARIABLE: "fast"})


@pytest.mark.parametrize(
    ("factor", "seconds", "limit"), [(1, 10, 10), (1, 0.3, 1), (2.5, 10, 25), (1.01, 10, 11), (20, 3600, 72_000)]
)
def test_a_limit_grows_with_the_factor_to_whole_seconds(
    monkeypatch: pytest.MonkeyPatch, factor: float, seconds: float, limit: int
):
    monkeypatch.setattr(machine, "factor", lambda: factor)
    found = machine.limit(seconds)
    assert (found, type(found)) == (limit, int)


def test_a_process_uses_the_given_factor_or_measures_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "measure", lambda: Reading(3.0, 0.0, 2))
    found = machine.factor.__wrapped__
    monkeypatch.setenv(VARIABLE, "7")
    assert found() == 7
    monkeypatch.delenv(VARIABLE)
    assert found() == 3


def test_a_measurement_describes_its_result():
    found = machine.measure()
    assert 1 <= found.factor <= LARGEST_FACTOR
    assert 0 <= found.stolen <= 1
    assert found.cores == os.cpu_count()
    assert (
        str(Reading(2.468, 0.345, 2))
        == "2.47 times as slow as two quiet cores of the reference machine, 34% of its processor stolen"
    )
