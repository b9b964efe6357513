"""Which save is made at a notice, by the remaining time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.checkpoint import SaveFailed
from halcyon.run.callback import Callback
from halcyon.run.last_save import LastSave, SaveTime, choose, longest_wait
from halcyon.run.loop import Training


@pytest.mark.parametrize(
    ("left", "save", "in_flight", "begun", "wanted"),
    [
        (None, 500.0, 500.0, False, "step"),  # outside a cluster there is no time limit
        (30.0, None, None, False, "step"),  # the duration of a save is unknown: try
        (0.0, None, None, False, "step"),
        (30.0, 10.0, None, False, "step"),
        (13.0, 10.0, None, False, "step"),  # 1.2 x 10 + 1
        (12.9, 10.0, None, False, "none"),
        (30.0, 20.0, 4.0, False, "step"),  # 1.2 x 24 + 1
        (29.0, 20.0, 4.0, False, "inFlight"),
        (5.8, 20.0, 4.0, False, "inFlight"),
        (5.7, 20.0, 4.0, False, "none"),
        (2.0, 20.0, None, True, "step"),  # a save of this step is already committed
        (5.8, 20.0, 4.0, True, "step"),  # a save of this step is in flight
        (5.7, 20.0, 4.0, True, "none"),
        (-3.0, 0.1, None, False, "none"),
    ],
)
def test_the_last_save_is_chosen_by_the_remaining_time(
    left: float | None, save: float | None, in_flight: float | None, begun: bool, wanted: str
) -> None:
    assert choose(SaveTime(left, save, in_flight, begun)) == wanted


def test_waiting_ends_before_the_process_is_killed() -> None:
    assert longest_wait(SaveTime(None, None, None)) is None
    assert longest_wait(SaveTime(15.0, None, None)) == 14.0
    assert longest_wait(SaveTime(0.5, None, None)) == 0.0


def test_the_sentence_names_the_chosen_save_and_its_cost() -> None:
    budget = SaveTime(12.0, 40.0, 3.0)
    assert LastSave("step", 50, 50, budget).sentence() == "a notice of preemption came; step 50 is saved"
    assert LastSave("inFlight", 50, 45, budget).sentence() == (
        "a notice of preemption came with 12.0 s left; a save takes 40.0 s, so only the save in flight, of step 45, "
        "was finished; steps 46 to 50 will be done again"
    )
    assert LastSave("none", 50, 30, budget).sentence() == (
        "a notice of preemption came with 12.0 s left; a save takes 40.0 s, so none was finished; steps 31 to 50 will "
        "be done again"
    )
    assert LastSave("none", 50, 30, budget, "the disk is full").sentence() == (
        "a notice of preemption came; the disk is full; steps 31 to 50 will be done again"
    )


@pytest.mark.parametrize("step", [5, 10])
def test_callbacks_stop_before_the_last_save_also_after_the_last_step(step: int) -> None:
    """After the last step a notice ends its evaluation or its tasks.

    The next processes make them, and complete the exports.
    """
    done: list[str] = []

    class Exports(Callback):
        def leave(self) -> None:
            done.append("exports stop")

    loop: Any = object.__new__(Training)
    loop.caches = SimpleNamespace(stop=lambda: None)
    loop.callbacks = [Exports()]
    loop.place = SimpleNamespace(context=SimpleNamespace(grace_seconds=None))
    loop.checkpointer = SimpleNamespace(finish=lambda: None, kept=SimpleNamespace(step=step))
    loop._reporter = SimpleNamespace(stage=lambda _: None)
    loop._settings, loop._saved_step = SimpleNamespace(steps=10), 3
    loop._report_pending, loop._program = lambda: None, SimpleNamespace(first_model=None)
    loop._budget = lambda _: SaveTime(None, None, None)
    loop._save = lambda *_, **__: done.append("save")
    assert loop._leave(None, step).preempted
    assert done == ["exports stop", "save"]


def test_a_run_does_not_go_back_beside_a_save_that_hangs() -> None:
    loop: Any = object.__new__(Training)
    loop.checkpointer = SimpleNamespace(skipped=(), wait=lambda seconds: not 0 < seconds <= 600)
    loop._reporter, loop._policy = SimpleNamespace(stage=lambda _: None), SimpleNamespace(rollback=None)
    with pytest.raises(SaveFailed, match="the loss is NaN, and the save in flight takes longer than 600 s"):
        loop._go_back(7, "the loss is NaN")
