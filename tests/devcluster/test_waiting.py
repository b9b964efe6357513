"""A wait ends with its condition.

Its limit grows with the machine's factor, also if the machine becomes slower meanwhile.
"""

from collections.abc import Iterable

import pytest

from halcyon_devcluster import DevclusterError, machine, waiting
from halcyon_devcluster.waiting import holds_within, until

LIMIT = 10.0


class Machine:
    """A machine with a simulated clock: time passes only when a test pauses.

    Args:
        given: Its factor, measured before the wait.
        measured: Its factors as they are measured during the wait, in order.
    """

    def __init__(self, given: float = 1.0, measured: Iterable[float] = ()) -> None:
        self.now = 100.0
        self.given = given
        self.asked: list[str] = []
        self._measured = iter(measured)

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def factor(self) -> float:
        self.asked.append("given")
        return self.given

    def factor_now(self) -> float:
        self.asked.append("measured")
        return next(self._measured)

    def waits(self, seconds: float) -> tuple[bool, float]:
        """Whether a condition that holds after `seconds` is waited for, and the seconds waited."""
        held = holds_within(
            lambda: self.now >= 100 + seconds,
            LIMIT,
            interval_seconds=1.0,
            clock=lambda: self.now,
            pause=self.pause,
            factor=self.factor,
            factor_now=self.factor_now,
        )
        return held, self.now - 100


@pytest.mark.parametrize("seconds", [0, 3, LIMIT])
def test_the_machine_is_not_measured_within_the_limit(seconds: float):
    quiet = Machine()
    assert quiet.waits(seconds) == (True, seconds)
    assert quiet.asked == []


def test_a_machine_that_is_as_fast_as_the_reference_machine_gets_no_more_time():
    quiet = Machine(measured=[1.0])
    assert quiet.waits(99) == (False, LIMIT)
    assert quiet.asked == ["given", "measured"]


def test_the_limit_grows_by_the_factor():
    assert Machine(given=3.0).waits(29) == (True, 29)
    slow = Machine(given=3.0, measured=[3.2])
    assert slow.waits(99) == (False, 30)
    assert slow.asked == ["given", "given", "measured"], "it must measure again when the longer limit has passed"


def test_a_machine_that_became_slower_gets_more_time():
    assert Machine(given=1.0, measured=[4.0]).waits(39) == (True, 39)
    assert Machine(given=2.0, measured=[4.0, 8.0]).waits(75) == (True, 75)
    slower = Machine(given=2.0, measured=[4.0, 4.3])
    assert slower.waits(99) == (False, 40), "two measurements of the same machine may differ by that much"


def test_a_limit_does_not_shrink_when_the_machine_becomes_faster():
    assert Machine(given=5.0, measured=[1.0]).waits(99) == (False, 50)


def test_a_long_wait_checks_its_condition_seldom():
    pauses: list[float] = []
    quiet = Machine()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        quiet.pause(seconds)

    assert holds_within(lambda: quiet.now >= 200, 200, interval_seconds=0.1, clock=lambda: quiet.now, pause=pause)
    assert pauses[:50] == [0.1] * 50
    assert 0.9 < max(pauses) <= 1.0


def test_a_condition_is_checked_at_least_once():
    answers = iter([True])
    assert holds_within(lambda: next(answers), 0)


def test_until_raises_the_message_of_the_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "holds_within", lambda condition, *_, **__: condition())
    until(lambda: True, timeout_seconds=1, failure=lambda: "never")
    with pytest.raises(DevclusterError, match="never"):
        until(lambda: False, timeout_seconds=1, failure=lambda: "never")


def test_a_wait_measures_this_machine_by_default(monkeypatch: pytest.MonkeyPatch):
    """The defaults of the arguments."""
    asked: list[str] = []
    monkeypatch.setattr(machine, "measure", lambda: asked.append("measured") or machine.Reading(1.0, 0.0, 2))
    assert not holds_within(lambda: False, 0, interval_seconds=0.001, factor=lambda: 1.0)
    assert asked == ["measured"]
