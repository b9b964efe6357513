"""Goodput by hand, and the history's bound."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.status import MAX_HISTORY, parse_status
from halcyon_operator.goodput import measure
from halcyon_operator.history import with_world
from tests.operator.builders import at, rfc


def entry(
    restart: int, start: float, first: float | None, end: float | None, steps: tuple[int, int] | None, cause: str = "preempted"
) -> dict[str, Any]:
    document: dict[str, Any] = {"attempt": 1, "restart": restart, "startedAt": rfc(start)}
    if first is not None:
        document["firstStepAt"] = rfc(first)
    if end is not None:
        document |= {"endedAt": rfc(end), "cause": cause}
    if steps is not None:
        document |= {"fromStep": steps[0]} | ({"toStep": steps[1]} if end is not None else {})
    return document


CASES = {
    "nothing lost": ([entry(0, 0, 10, 110, (0, 100)), entry(1, 120, 130, None, (100, 0))], 200, 150, 0.85, 170, 0),
    "half of the first world lost": ([entry(0, 0, 10, 110, (0, 100)), entry(1, 120, 130, None, (50, 0))], 200, 60, 0.6, 120, 50),
    "a world that never stepped": ([entry(0, 0, None, 100, None), entry(1, 100, 110, None, (0, 0))], 200, 90, 0.45, 90, 0),
    "suspension is taken out": ([entry(0, 0, 0, 100, (0, 100), "suspended"), entry(1, 900, 900, None, (100, 0))], 1000, 200, 1.0, 200, 0),
    "suspended now": ([entry(0, 0, 0, 100, (0, 100), "suspended")], 1000, 100, 1.0, 100, 0),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_by_hand(case: str) -> None:
    history, now, step, ratio, productive, lost = CASES[case]
    status = parse_status({"startedAt": rfc(0), "history": history, "progress": {"step": step, "steps": 300}})
    found = measure(status, at(now))
    assert found is not None
    assert (found.ratio, found.productive_seconds, found.lost_steps) == (ratio, productive, lost)


def test_a_finished_run_does_not_age() -> None:
    status = parse_status({"startedAt": rfc(0), "finishedAt": rfc(100), "history": [entry(0, 0, 0, 100, (0, 100), "completed")]})
    assert measure(status, at(100)) == measure(status, at(5000))


def test_what_leaves_the_history_stays_in_the_sums() -> None:
    status = parse_status({"startedAt": rfc(0), "history": []})
    history = [entry(n, 100 * n, 100 * n + 10, 100 * n + 90, (10 * n, 10 * n + 15)) for n in range(MAX_HISTORY + 8)]
    whole = measure(status.model_copy(update={"history": parse_status({"history": history[:MAX_HISTORY]}).history}), at(4000))
    assert whole is not None
    growing = parse_status({"startedAt": rfc(0), "history": history[:MAX_HISTORY]})
    for number in range(MAX_HISTORY, MAX_HISTORY + 8):
        growing = with_world(growing, (1, number), at(100 * number))
        known = parse_status({"history": [history[number]]}).history[0]
        growing = growing.model_copy(update={"history": [*growing.history[:-1], known]})
    assert len(growing.history) == MAX_HISTORY
    found = measure(growing, at(4000))
    assert found is not None
    assert found.lost_steps == 5 * (MAX_HISTORY + 7)
    assert found.productive_seconds == pytest.approx((MAX_HISTORY + 7) * 80 * 10 / 15 + 80, abs=1)
    assert found.carried.lost_steps == 5 * 8
