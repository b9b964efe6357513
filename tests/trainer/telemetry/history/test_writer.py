"""The writer of a history on a real root: crash-safe, fenced, and without any effect on the training."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import STEPS_WAITING, Background, Row
from halcyon.telemetry.history.reading import copy_history, read_history
from halcyon.telemetry.history.segments import METRICS_PREFIX
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.telemetry.history.rows import Recorder, group, root, row


def files(store: Store) -> list[str]:
    return store.list(METRICS_PREFIX)


def test_a_run_that_was_killed_and_resumed_has_each_step_once(tmp_path: Path) -> None:
    store = root(tmp_path)
    first = Recorder(store.place, group(1))
    first.flush([row(number, 1.0) for number in range(1, 31)])
    first.flush(
        [Row("evaluation", 31.0, {"step": 30, "loss": 9.0})]
        + [Row("sample", 31.0, {"step": number, "prompt": "1 + 1 is ", "text": "1"}) for number in (10, 30)]
        + [Row("checkpoint", 31.0, {"step": 20, "path": "steps/x/"})]
    )
    second = Recorder(
        store.place, group(1, resumed=20, attempt=2, writer="w2", began=2000.0)
    )  # the number comes from the root
    second.flush([row(number, 2.0) for number in range(21, 41)])
    second.flush(
        [
            Row("evaluation", 41.0, {"step": 30, "loss": 8.0}),
            Row("sample", 41.0, {"step": 30, "prompt": "1 + 1 is ", "text": "2"}),
            Row("done", 42.0, {"step": 40, "message": "all steps are done"}),
        ]
    )
    found = read_history(store)
    assert [(one["step"], one["loss"]) for one in found.steps] == [
        (number, 1.0 if number <= 20 else 2.0) for number in range(1, 41)
    ]
    assert [one["loss"] for one in found.evaluations] == [8.0]
    assert [(one["step"], one["text"]) for one in found.samples] == [(10, "1"), (30, "2")]
    assert [one.group.number for one in found.groups] == [1, 2]
    assert [(one.ended, one.repeated) for one in found.groups] == [("", 10), ("completed", 0)]
    assert found.groups[0].seconds.lost_work == 1.0
    assert found.groups[0].seconds.productive_step == 2.0
    assert found.complete
    assert found.stopped_seconds == pytest.approx(500.0)
    assert [one["event"] for one in found.events] == ["checkpoint", "done"]


def test_a_run_that_goes_back_leaves_behind_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    """The process went back from step 9 to step 4, behind the step 5 at which it had resumed, and was killed after step
    6.
    """
    store = root(tmp_path)
    Recorder(store.place, group(1)).flush([row(number, 1.0) for number in range(1, 6)])
    second = Recorder(store.place, group(2, resumed=5, began=2000.0))
    evaluations = [Row("evaluation", float(number), {"step": number, "loss": 1.0}) for number in (4, 8)]
    second.flush([*(row(number, 2.0) for number in range(6, 10)), *evaluations])
    back = Row("rolledBack", 10.0, {"step": 9, "to_step": 4, "batches": 5, "reason": "jump"})
    second.flush([back])
    found = read_history(store)
    assert [(one["step"], one["loss"]) for one in found.steps] == [(number, 1.0) for number in range(1, 5)]
    second.done = 6
    second.writer._take([row(number, 3.0) for number in (5, 6)], True, False)
    found = read_history(store)
    assert [(one["step"], one["loss"]) for one in found.steps] == [
        *((number, 1.0) for number in range(1, 5)),
        (5, 3.0),
        (6, 3.0),
    ]
    assert [one["step"] for one in found.evaluations] == [4]
    assert [(one.last_step, one.repeated) for one in found.groups] == [(5, 1), (6, 5)]
    assert found.done_steps == 6


def test_what_a_save_holds_is_written_when_it_begins(tmp_path: Path) -> None:
    store = root(tmp_path)
    recorder = Recorder(store.place, group(1))
    recorder.flush([row(1)])
    recorder.writer._take([row(2)], False, False)
    assert [one["step"] for one in read_history(store).steps] == [1]
    recorder.writer._take([row(3)], True, False)  # a save begins, however short the time since the last flush
    assert [one["step"] for one in read_history(store).steps] == [1, 2, 3]


def test_flushes_are_merged_and_a_killed_merge_is_completed_by_the_next_process(tmp_path: Path) -> None:
    store = root(tmp_path)
    recorder = Recorder(store.place, group(1))
    for number in range(1, 8):
        recorder.flush([row(number)])
    sources = {key: store.read(key).data for key in files(store)}
    recorder.flush([row(8)])
    assert [key.split(".")[1] for key in files(store)] == ["1"]
    for key, data in sources.items():
        store.write(key, data or b"")  # as if the process had been killed before it deleted them
    assert [one["step"] for one in read_history(store).steps] == list(range(1, 9))
    Recorder(store.place, group(1, resumed=8, writer="w2")).flush([row(9)])
    assert len(files(store)) == 2
    assert [one["step"] for one in read_history(store).steps] == list(range(1, 10))


def test_a_writer_that_lost_the_root_merges_and_deletes_nothing(tmp_path: Path) -> None:
    store = root(tmp_path, writer="another")
    recorder = Recorder(store.place, group(1))
    for number in range(1, 11):
        recorder.flush([row(number)])
    assert len(files(store)) == 10


class Refusing(Store):
    """A store whose writes fail while `down`."""

    down = True

    def write(self, key: str, data: object) -> None:
        if self.down:
            raise StoreFailure("UNAVAILABLE", "gone")
        super().write(key, data)  # type: ignore[arg-type]


def test_an_outage_costs_one_warning_and_no_row(tmp_path: Path) -> None:
    store = root(tmp_path)
    recorder = Recorder(store.place, group(1))
    recorder.writer._store = broken = Refusing(store.place)
    for number in range(1, 4):
        recorder.flush([row(number)])
    broken.down = False
    recorder.flush([row(4)])
    assert [one["step"] for one in read_history(store).steps] == [1, 2, 3, 4]
    assert len(recorder.warnings) == 1
    assert "is tried again: UNAVAILABLE: gone" in recorder.warnings[0]


def test_a_long_outage_thins_out_steps_and_keeps_evaluations(tmp_path: Path) -> None:
    recorder = Recorder(CheckpointSpec(root=f"file://{tmp_path}"), group(1))
    recorder.writer._store = Refusing(CheckpointSpec(root=f"file://{tmp_path}"))
    for part in range(5):
        steps = [row(number) for number in range(part * 4000 + 1, part * 4000 + 4001)]
        recorder.flush([*steps, Row("evaluation", 1.0, {"step": part, "loss": 1.0})])
    waiting = recorder.writer._waiting
    assert len(waiting) < 9000
    assert (
        sum(one["event"] == "evaluation" for one in waiting) == 4
    )  # the fifth is in the segment that waits to be sent


def test_a_damaged_segment_is_named_and_set_aside_and_the_others_are_read(tmp_path: Path) -> None:
    store = root(tmp_path)
    recorder = Recorder(store.place, group(1))
    for number in range(1, 8):
        recorder.flush([row(number)])
    damaged = files(store)[2]
    store.write(damaged, b"\0" * 40)
    found = read_history(store)
    assert [one["step"] for one in found.steps] == [1, 2, 4, 5, 6, 7]
    assert found.damages == (f"{damaged} is damaged (ZstdError)",)
    recorder.flush([row(8)])
    assert "a part of the history is lost" in recorder.warnings[0]
    assert store.read(f"quarantine/{damaged.replace('/', '-')}").data == b"\0" * 40
    (merged,) = files(store)
    lost = f"{merged} lacks {damaged}, which could not be read when they were merged"
    assert read_history(store).damages == (lost,), "what was lost stays named"


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    store = root(tmp_path)
    recorder = Recorder(store.place, group(1))
    for number in range(1, 7):
        recorder.flush([row(number)])
    written = files(store)
    for gone in (0, 2, 3):
        store.delete(written[gone])
    assert [one["step"] for one in read_history(store).steps] == [2, 5, 6]
    assert read_history(store).damages == tuple(
        f"metrics/: no file has the numbers {numbers}, so the history lacks their rows"
        for numbers in ("1 to 1", "3 to 4")
    )


def test_a_copy_has_the_history_up_to_its_step_and_the_next_run_continues_it(tmp_path: Path) -> None:
    store, to = root(tmp_path / "a"), root(tmp_path / "b", writer="v1")
    Recorder(store.place, group(1, attempt=5)).flush([row(number) for number in range(1, 31)])
    Recorder(store.place, group(2, resumed=25, attempt=6)).flush([row(number) for number in range(26, 41)])
    copy_history(store, to, 20)
    Recorder(to.place, group(1, resumed=20, attempt=1, writer="v1")).flush([row(21, 7.0)])
    found = read_history(to)
    assert [one["step"] for one in found.steps] == list(range(1, 22))
    assert found.steps[-1]["loss"] == 7.0


def test_a_thread_that_is_stuck_holds_up_neither_rows_nor_the_end() -> None:
    stuck = threading.Event()
    background = Background(
        "stuck", lambda rows, now, last: stuck.wait(limit(60)) and None, lambda error: None, interval_seconds=0.01
    )
    for number in range(3 * STEPS_WAITING):
        background.record(row(number))
    background.record(Row("evaluation", 1.0, {"step": 1}))
    background.close(0.0)
    assert not stuck.is_set(), "nobody waited for the thread"
    assert background.dropped >= STEPS_WAITING
    assert background._rows[-1].event == "evaluation"
    stuck.set()


def test_rows_that_found_no_room_are_said_at_the_end(tmp_path: Path) -> None:
    recorder = Recorder(root(tmp_path).place, group(1))
    recorder.writer.dropped = 3
    recorder.writer.close(limit(10))
    assert recorder.warnings == ["the history lacks 3 rows, which found no room in its queue"]


def test_an_error_of_the_thread_is_reported_once_and_ends_only_the_thread() -> None:
    errors: list[Exception] = []

    def fail(rows: list[Row], now: bool, last: bool) -> None:
        raise RuntimeError("broken")

    background = Background("broken", fail, errors.append, interval_seconds=60.0)
    background.hurry()
    background.close(limit(5))
    background.record(row(1))
    assert [str(error) for error in errors] == ["broken"]
