"""The hang watchdog ends no healthy run: steps of another size, long saves, waits for a store, a machine that was
suspended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from halcyon.telemetry.health import FLOOR_SECONDS, Health, Watchdog
from tests.suite.limits import limit
from tests.trainer.telemetry.fakes import Scene, step_report


def sizes(*changes: tuple[int, int]) -> Callable[[int], int]:
    """The size of each step, counted from 0, by (first step, size) of each change."""
    return lambda step: [size for first, size in changes if first <= step][-1]


def test_a_step_of_a_new_size_has_the_time_of_a_first_step() -> None:
    scene = Scene(size_of=sizes((0, 8), (20, 64)))
    scene.start()
    scene.steps(1, 18)
    scene.time.pass_(61)
    assert not scene.reporter.health().healthy, "all steps up to the change have a known size"
    scene.reporter.step_done(step_report(19))
    scene.time.pass_(
        3000
    )  # step 20 has ended, but is not reported yet, because the loop waits for the program of step 21
    assert scene.reporter.health().healthy
    scene.reporter.step_done(step_report(20))
    scene.time.pass_(7000)  # the compilation
    assert scene.reporter.health().healthy
    scene.reporter.step_done(step_report(21))
    scene.time.pass_(3000)
    assert scene.reporter.health().healthy, "the first step of a size gives no duration"
    scene.reporter.step_done(step_report(22))


def test_each_batch_size_has_its_own_step_limit() -> None:
    scene = Scene(size_of=sizes((0, 8), (20, 64), (40, 8)))
    scene.start()
    scene.steps(1, 20)
    scene.time.pass_(100)
    scene.steps(21, 38, seconds=10)
    scene.time.pass_(99)
    assert scene.reporter.health().healthy
    scene.time.pass_(2)
    assert not scene.reporter.health().healthy, "ten times the steps of this size"
    scene.steps(39, 42, seconds=1)
    scene.time.pass_(61)
    assert not scene.reporter.health().healthy, "the durations of a former size are still known"


def test_a_batch_size_without_known_steps_has_the_limit_of_a_compilation() -> None:
    scene = Scene(size_of=sizes((0, 8), (20, 64)))
    scene.start()
    scene.steps(1, 20)
    scene.time.pass_(7201)
    assert not scene.reporter.health().healthy


def test_evaluations_and_saves_are_no_part_of_the_steps() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 20)
    scene.reporter.stage("evaluating")
    scene.time.pass_(2000)
    scene.reporter.stage("training")
    scene.steps(21, 22)
    scene.time.pass_(61)
    assert not scene.reporter.health().healthy, "the evaluation of 2,000 s does not count in the step of 0.5 s after it"


def test_the_last_save_has_as_long_as_any_other() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 20)
    scene.reporter.stage("leaving")
    scene.time.pass_(7000)
    assert scene.reporter.health().healthy


@pytest.mark.parametrize("stage", ["starting", "restoring", "tokenizing"])
def test_a_process_that_waits_for_a_store_is_alive(stage: str) -> None:
    scene = Scene()
    scene.reporter.stage(stage)  # type: ignore[arg-type]
    scene.reporter.store_refuses("checkpointRoot", "s3://bucket/run refuses access", 20_000)
    assert scene.reporter.report().waiting is not None
    scene.time.pass_(19_999)
    assert scene.reporter.health().healthy
    scene.time.pass_(10_000)
    assert not scene.reporter.health().healthy, "a wait that continues after its limit hangs"
    scene.reporter.store_wait_ended(0, True)
    assert scene.reporter.report().waiting is None


def test_time_while_the_machine_was_suspended_does_not_count() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 20)
    scene.time.pass_(900)
    scene.reporter.adds(paused_seconds=899)
    assert scene.reporter.health().idle_seconds == 1
    scene.steps(21, 22)
    scene.time.pass_(61)
    assert not scene.reporter.health().healthy, "a pause counts once"


def test_the_watchdog_reports_a_pause_between_two_checks() -> None:
    """The clock jumps by an hour between two checks, as for a stopped process.

    The watchdog reports the pause before the verdict.
    """
    pauses: list[float] = []
    looks: list[int] = []
    enough = threading.Event()
    asked = 0

    def clock() -> float:
        """One hour later from the third check on.

        The clock is read once at the start, and before and after the verdict of each check.
        """
        nonlocal asked
        asked += 1
        return time.monotonic() + (3600.0 if asked >= 6 else 0.0)

    def health() -> Health:
        looks.append(len(pauses))
        if len(looks) == 4:
            enough.set()
        return Health(True, 0.0, 60.0, "ok")

    watchdog = Watchdog(
        health,
        lambda *_: None,
        None,
        lambda _: None,
        poll_seconds=0.01,
        on_pause=pauses.append,
        clock=clock,
        late_seconds=limit(60),
    )
    assert enough.wait(limit(30))
    watchdog.close()
    (seconds,) = pauses
    assert 3600 - 1 < seconds < 3600 + limit(60)
    assert looks[:4] == [0, 0, 1, 1]


def test_a_process_that_learns_of_a_hang_writes_its_stacks_and_does_not_end() -> None:
    stacks: list[str] = []
    ended: list[str] = []
    written, looked = threading.Event(), threading.Event()

    def health() -> Health:
        if stacks:
            looked.set()
        return Health(True, 3.0, 60.0, "ok")

    def on_hung(_: Health, text: str, path: str | None) -> None:
        stacks.append(text)
        written.set()

    watchdog = Watchdog(health, on_hung, None, ended.append, poll_seconds=0.01, exit_delay_seconds=0.01)
    watchdog.tell(lambda: ended.append("the others know"))
    watchdog.other_hangs()
    assert written.wait(limit(30))
    looked.clear()
    assert looked.wait(limit(30)), "it goes on with its own verdicts"
    watchdog.close()
    assert (len(stacks), ended) == (1, [])
    assert "health.py" in stacks[0]


def test_a_hung_process_tells_the_others_before_it_stores_its_stacks() -> None:
    done: list[str] = []
    asked, ended = threading.Event(), threading.Event()

    def health() -> Health:
        return Health(not asked.is_set(), 61.0, 60.0, "stalled: no step ended for 61.0 s, limit 60.0 s")

    def stored(_: str) -> str:
        done.append("stored")
        return "file:///stacks"

    def end(message: str) -> None:
        done.append(message)
        ended.set()

    watchdog = Watchdog(
        health, lambda *_: done.append("event"), stored, end, poll_seconds=0.01, exit_delay_seconds=0.01
    )
    watchdog.tell(lambda: done.append("the others know"))
    asked.set()
    assert ended.wait(limit(30))
    message = "no step ended for 61.0 s, limit 60.0 s; the stacks of its threads are in file:///stacks"
    assert done == ["the others know", "stored", "event", message]


def test_a_floor_is_the_least_time_of_a_step() -> None:
    assert FLOOR_SECONDS == 60
