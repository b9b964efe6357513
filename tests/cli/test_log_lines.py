"""The logs of several processes, merged into one."""

from __future__ import annotations

import json
import queue
from typing import Any

import pytest

from halcyon_cli.following import LogLine, come, losses, merged, parse, shown


def line(seconds: int, event: str, process: int = 0, **fields: Any) -> str:
    common = {
        "event": event,
        "time": f"2026-03-01T12:00:{seconds:02}.000Z",
        "run": "demo",
        "attempt": 1,
        "restart": 0,
        "process": process,
    }
    return json.dumps({**common, **fields})


def test_lines_are_ordered_by_time_and_unparsed_lines_keep_their_place() -> None:
    first = [line(1, "start"), "a library's word", line(5, "step", step=1, loss=2.5), "", "Traceback", "  more of it"]
    second = [line(2, "start", 1), line(4, "joined", 1)]
    story = list(merged([parse(first, "demo-0"), parse(second, "demo-1")]))
    assert [one.event or one.text for one in story] == [
        "start",
        "a library's word",
        "start",
        "joined",
        "step",
        "Traceback",
        "  more of it",
    ]
    assert [one.pod for one in story][2:4] == ["demo-1", "demo-1"]


def test_a_clock_that_was_set_back_does_not_shuffle_one_process() -> None:
    story = list(
        merged([parse([line(9, "start"), line(3, "joined"), line(4, "restored")], "a"), parse([line(5, "start")], "b")])
    )
    assert [one.event for one in story if one.pod == "a"] == ["start", "joined", "restored"]


def test_the_last_loss_of_each_step_counts() -> None:
    lines = parse(
        [line(1, "step", step=1, loss=3.0), line(2, "step", step=2, loss=9.0), line(3, "step", step=2, loss=2.0)], "a"
    )
    assert losses(lines) == [3.0, 2.0]
    assert losses(parse([line(1, "step", step=1, loss="NaN"), "{", "[1]", '"text"', '{"time": 3}'], "a")) == []


def test_a_line_shows_local_time_process_step_and_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon_cli.following.local_time", lambda time, date: f"{time}, {date}")
    text = shown(next(parse([line(7, "step", 3, step=12, loss=2.123456789)], "a"))).plain
    assert text.split() == ["2026-03-01T12:00:07.000Z,", "False", "1.0/3", "12", "step", "loss=2.12346"]


def test_endless_lines_do_not_delay_the_search_for_new_pods() -> None:
    """A process that writes all the time must not hide that another one has started."""

    class Endless(queue.Queue[Any]):
        now = 0.0

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            self.now += 0.25
            return (
                self.notice if self.now == 1.0 else LogLine(f"2026-03-01T12:00:{59 - self.now * 4:04.1f}Z", "a", "", {})
            )

        def notice(self) -> None:
            seen.append(self.now)

    lines, seen = Endless(), list[float]()
    found = come(lines, 2.0, clock=lambda: lines.now)
    assert seen == [1.0]
    assert len(found) == 7
    assert [line.time for line in found] == sorted(line.time for line in found)
