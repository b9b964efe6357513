"""The state is one value: readers get all of it at one moment, and `/status` and the listeners see what the loop
reported.
"""

from __future__ import annotations

import dataclasses

import pytest

from halcyon.telemetry.history.background import Row
from halcyon_api.status.progress import Progress
from tests.trainer.telemetry.fakes import Scene, committed, step_report


class Listener:
    """Keeps the rows, in the order of a list that several listeners share."""

    def __init__(self, rows: list[tuple[str, Row]], name: str) -> None:
        self.rows, self.name = rows, name

    def record(self, row: Row) -> None:
        self.rows.append((self.name, row))

    def hurry(self) -> None:
        pass

    def close(self, seconds: float) -> None:
        pass


def test_a_state_stays_as_it_was_read() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 10)
    seen = scene.reporter.observe()
    before = dataclasses.replace(seen)
    scene.time.pass_(100)
    scene.steps(11, 20)
    scene.reporter.event("rolledBack", step=20, to_step=5, batches=15, reason="jump")
    scene.reporter.event("checkpoint", committed(20), blocked_seconds=None)
    assert seen == before
    assert (seen.step, seen.checkpoint, seen.health.idle_seconds) == (10, None, 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.evaluations = 1  # type: ignore[misc]


def test_a_state_has_no_fields_but_its_own() -> None:
    seen = Scene().reporter.observe()
    changed = seen.but(evaluations=3).plus(evaluations=2, checkpoint_save_seconds=0.5)
    assert (seen.evaluations, changed.evaluations, changed.checkpoint_save_seconds) == (0, 5, 0.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'skiped'"):
        seen.but(skiped=1)


def test_every_field_of_the_progress_is_known_to_the_state_or_computed_by_an_objective() -> None:
    """A field of `Progress` without a value of its name would stay empty without an error."""
    metrics = {
        "load_balance_loss",
        "z_loss",
        "router_z_loss",
        "expert_load_max",
        "preference_accuracy",
        "reward_margin",
        "reward",
    }
    assert {name for name in Progress.model_fields if not hasattr(Scene().reporter.observe(), name)} == metrics


def test_listeners_get_the_report_of_a_row_and_the_first_one_is_called_last() -> None:
    scene = Scene(log_every_steps=50)
    rows: list[tuple[str, Row]] = []
    for name in ("hooks", "history"):
        scene.reporter.listen(Listener(rows, name))
    report, checkpoint = step_report(1), committed(1)
    scene.reporter.step_done(report)
    scene.reporter.event("checkpoint", checkpoint, blocked_seconds=None)
    assert [(name, row.event) for name, row in rows] == [
        (name, event) for event in ("compiled", "step", "checkpoint") for name in ("history", "hooks")
    ]
    assert [row.report for name, row in rows if name == "hooks"] == [None, report, checkpoint]
    assert scene.named("step") == [], "a listener gets every step, the log every fiftieth"


def test_the_status_has_no_number_that_json_lacks_and_seconds_to_the_microsecond() -> None:
    scene = Scene()
    scene.reporter.knows(save_interval_seconds=75.123456789, evaluation_loss=float("nan"), bits_per_byte=float("inf"))
    progress = scene.reporter.report().progress
    assert (progress.save_interval_seconds, progress.evaluation_loss, progress.bits_per_byte) == (75.123457, None, None)
