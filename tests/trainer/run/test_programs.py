"""Which compiled step runs for which batch, when it is compiled, and when it is kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.data.loader import Loader
from halcyon.host.storage.store import Store
from halcyon.run.programs import Programs
from halcyon.step.compilation import CompilationCache
from halcyon.step.program import Program
from halcyon.step.state import initial_state
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.data.corpus import open_text
from tests.trainer.step.test_program import program_of


class Kept:
    """Records what is kept. `sizes` are those compiled so far."""

    def __init__(self, sizes: Sequence[tuple[int, int]] = ()) -> None:
        self._sizes = sizes
        self.fetched_before: list[int] = []
        self.compiled_sizes: list[tuple[int, int]] = []
        self.published = 0
        self.stopped = False

    def fetch(self) -> None:
        self.fetched_before.append(len(self._sizes))

    def compiled(self, step: Any, batch_size: int, sequence_length: int) -> None:
        del step
        self.compiled_sizes.append((batch_size, sequence_length))

    def publish(self) -> None:
        self.published += 1

    def stop(self) -> None:
        self.stopped = True


class Compilations:
    """A program that records the sizes that are compiled."""

    watched_step = None

    def __init__(self, program: Program | None = None) -> None:
        self._program = program
        self.sizes: list[tuple[int, int]] = []

    def size_of(self, batch: Any) -> tuple[int, int]:
        shape = jax.tree.leaves(batch)[0].shape
        return shape[0] * shape[1], shape[2]

    def padded(self, batch_size: int) -> int:
        return -(-batch_size // 4) * 4

    def compile_step(self, batch_size: int, sequence_length: int, *, watched: bool = False) -> Any:
        assert not watched
        self.sizes.append((batch_size, sequence_length))
        return (
            self._program.compile_step(batch_size, sequence_length) if self._program else (batch_size, sequence_length)
        )


STAGES = [
    {"fromStep": 3, "batchSize": 8},
    {"fromStep": 5, "batchSize": 4, "sequenceLength": 8},
    {"fromStep": 1000, "batchSize": 4, "sequenceLength": 16},
]


def test_each_batch_size_is_compiled_once_and_shortly_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("abc" * 100)
    schedule = open_text(tmp_path, batch_size=4, stages=STAGES).schedule
    compilations = Compilations()
    kept = Kept(compilations.sizes)
    with ThreadPoolExecutor(1) as background:
        steps = Programs(compilations, background, kept)  # type: ignore[arg-type]
        steps.start_for(schedule, 0)
        for step in range(1, 6):
            steps.prepare(schedule, step)
        assert steps.start(4, 16).result() == (4, 16)
        assert steps.start(4, 8).result() == (4, 8)
        assert compilations.sizes == [(4, 16), (8, 16), (4, 8)]
        steps.prepare(schedule, 900)
        assert steps.start(4, 16).result() == (4, 16)
    assert compilations.sizes == [(4, 16), (8, 16), (4, 8)]
    assert kept.fetched_before == [0], "once, before the first"
    assert kept.compiled_sizes == compilations.sizes


def test_a_batch_with_padding_has_the_program_of_its_size() -> None:
    compilations = Compilations()
    with ThreadPoolExecutor(1) as background:
        steps = Programs(compilations, background, Kept())  # type: ignore[arg-type]
        steps.start(3, 16)
        steps.of({"tokens": np.zeros((1, 4, 16))})  # type: ignore[dict-item]
    assert compilations.sizes == [(3, 16)]


def test_a_run_that_begins_at_a_later_step_compiles_the_size_of_that_step(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("abc" * 100)
    schedule = open_text(tmp_path, batch_size=4, stages=STAGES).schedule
    compilations = Compilations()
    with ThreadPoolExecutor(1) as background:
        Programs(compilations, background, Kept()).start_for(schedule, 4)  # type: ignore[arg-type]
    assert compilations.sizes == [(8, 16)]


@pytest.mark.slow
def test_training_continues_over_changes_of_batch_size(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("".join(f"line {number}\n" for number in range(300)))
    dataset = open_text(tmp_path, batch_size=4, stages=STAGES[:2], fraction=0)
    program = program_of(spec__trainer__sequenceLength=16, spec__trainer__batchSchedule=STAGES[:2])
    state = initial_state(program.build_state, program.template)
    control = jax.device_put(np.zeros(1, np.int32), program.control_sharding)
    with (
        ThreadPoolExecutor(1) as background,
        Loader(
            dataset, microbatches=1, sharding=program.batch_sharding, fields=program.objective.fields, last_step=7
        ) as loader,
    ):
        steps = Programs(program, background, Kept())  # type: ignore[arg-type]
        weights = []
        for step in range(7):
            batch = loader.batch(step)
            state, metrics = steps.of(batch)(state, batch, control)
            weights.append(float(metrics.tokens))
    assert weights == [float(dataset.examples(dataset.train_rows(step)).weights.sum()) for step in range(7)]
    assert int(state.step) == 7


def test_programs_are_kept_after_the_first_step_of_each_and_at_no_other(tmp_path: Path) -> None:
    kept = Kept()
    short, long = (np.zeros((1, 4, length)) for length in (8, 16))
    with ThreadPoolExecutor(1) as background:
        programs = Programs(Compilations(), background, kept)  # type: ignore[arg-type]
        published = []
        for step, batch in enumerate((short, short, long, short, long), start=1):
            programs.of(batch)  # type: ignore[arg-type]
            programs.dispatched(step, lambda: None)
            programs.close()  # waits
            published.append(kept.published)
    assert published == [1, 1, 2, 2, 2]


def test_the_end_of_a_run_waits_for_the_programs_that_are_being_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, copied = threading.Event(), threading.Event()

    def waiting(copies: Sequence[Future[None]], _: float) -> None:
        waits.set()
        wait(copies, limit(10))

    def publish() -> None:
        if waits.wait(limit(10)):
            copied.set()

    monkeypatch.setattr("halcyon.run.programs.wait", waiting)
    kept = Kept()
    kept.publish = publish  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as background:
        programs = Programs(Compilations(), background, kept)  # type: ignore[arg-type]
        programs.dispatched(1, lambda: None)
        programs.close()
    assert copied.is_set()


def test_programs_that_a_silent_store_never_takes_do_not_keep_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon.run.programs.COPY_SECONDS", 0.01)
    asked, answers, stopped = threading.Event(), threading.Event(), threading.Event()

    def unanswered(_: str) -> Future[Any]:
        asked.set()
        return Future()

    def abandoned() -> bool:
        if stopped.is_set():
            answers.set()
        return stopped.is_set()

    store = Store(CheckpointSpec(root=f"file://{tmp_path}"), abandoned=abandoned)
    monkeypatch.setattr(store, "_kvstore", SimpleNamespace(list=unanswered))
    kept = Kept()
    kept.publish, kept.stop = CompilationCache(tmp_path, store, "p").publish, stopped.set  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as background:
        programs = Programs(Compilations(), background, kept)  # type: ignore[arg-type]
        programs.dispatched(1, lambda: None)
        assert asked.wait(limit(10))
        programs.close()
    assert answers.wait(limit(10)), "the request is abandoned, so that no thread of it keeps the process"
