"""What the loop does with the callbacks of a run: in which order, and at which steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.run.callback import Callback
from halcyon.run.loop import Training, TrainingEnd


class Recorded(Callback):
    """Is due at every fifth step and at the last one."""

    def __init__(self, done: list[str], *, came: bool = True) -> None:
        self._done, self._came = done, came

    def due(self, step: int, *, is_last: bool) -> bool:
        return is_last or step % 5 == 0

    def after(self, step: int, state: Any) -> bool:
        self._done.append(f"after {step}")
        return self._came

    def finish(self) -> bool:
        self._done.append("finish")
        return self._came


def loop_with(done: list[str], callbacks: list[Callback], *, stops: bool = False, stop: str | None = None) -> Any:
    loop: Any = object.__new__(Training)
    loop.callbacks, loop._settings = callbacks, SimpleNamespace(steps=12)
    loop.last_step = 12
    loop._best = SimpleNamespace(stop=stop)
    loop._save = lambda state, step, **_: done.append(f"save {step}")
    loop._report_pending = lambda: done.append("report")
    loop.sync_point = SimpleNamespace(should_stop=lambda: stops)
    loop.place = SimpleNamespace(context=SimpleNamespace(grace_seconds=30.0))
    loop.notice = SimpleNamespace(age_seconds=10.0)
    return loop


@pytest.mark.parametrize(("step", "stop"), [(5, None), (12, None), (7, "it stops early")])
def test_a_due_callback_gets_a_step_that_is_saved_and_reported(step: int, stop: str | None) -> None:
    done: list[str] = []
    assert loop_with(done, [Callback(), Recorded(done)], stop=stop)._call_back(None, step)
    assert done == [f"save {step}", "report", f"after {step}"]


def test_a_step_without_a_due_callback_is_not_saved() -> None:
    done: list[str] = []
    assert loop_with(done, [Callback(), Recorded(done)])._call_back(None, 7)
    assert done == []


def test_a_callback_that_needs_no_checkpoint_makes_none() -> None:
    done: list[str] = []
    callback = Recorded(done)
    callback.saves = False
    loop = loop_with(done, [callback])
    assert loop._call_back(None, 5)
    assert done == ["report", "after 5"]
    loop.checkpointer = SimpleNamespace(should_save=lambda step: False, is_promised=lambda step: False)
    loop._saves_before_evaluation = False
    assert not loop._saved_by_step(5)


def test_after_a_notice_no_callback_begins() -> None:
    done: list[str] = []
    assert not loop_with(done, [Recorded(done)], stops=True)._call_back(None, 5)
    assert done == ["save 5", "report"]
    assert not loop_with(done, [Recorded(done, came=False), Recorded(done)])._call_back(None, 5)
    assert done[2:] == ["save 5", "report", "after 5"], "the second one is left to the next processes"


def test_a_notice_while_a_callback_completes_its_work_is_a_preemption_with_all_steps_saved() -> None:
    done: list[str] = []
    whole = TrainingEnd(12, preempted=False, stopped="it stops early")
    assert loop_with(done, [Recorded(done)])._completed(whole) is whole
    ended = loop_with(done, [Recorded(done, came=False)])._completed(whole)
    assert ended.preempted
    assert (ended.last_save.saved, ended.last_save.committed_step, ended.last_save.budget.left_seconds) == (
        "step",
        12,
        20.0,
    )
    assert done == ["finish", "finish"]
    assert loop_with(done, [Recorded(done)])._completed(TrainingEnd(5, preempted=True)).step == 5
    assert done == ["finish", "finish"], "a run that is preempted completes nothing"
