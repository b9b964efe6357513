"""The memory tier of one process: what it keeps, and what a later start in the same pod gets back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.memory.folder import Folder
from halcyon.checkpoint.memory.tier import MemoryTier, Recalled
from halcyon_api.spec.checkpoint import MemorySpec
from tests.trainer.checkpoint.helpers import OneProcess

Warnings = list[str]


def state(step: int) -> dict[str, Any]:
    return {"step": jnp.int32(step), "weight": jnp.full((64, 8), step / 3, jnp.float32)}


@contextmanager
def tier(folder: Path, warnings: Warnings, writers: tuple[str, ...] = ("w1",), **spec: Any) -> Iterator[MemoryTier]:
    found = MemoryTier(
        MemorySpec(**spec),
        folder,
        OneProcess(),
        (1, 1),
        host="localhost",
        token="a token",  # noqa: S106 - a test's
        writers=writers,
        on_warning=warnings.append,
        on_kept=lambda step: None,
    )
    try:
        yield found
    finally:
        found.close()


def keep(memory: MemoryTier, step: int, returns: int = 0, numbers: StepNumbers | None = None) -> None:
    memory.keep(
        step,
        state(step),
        returns=returns,
        evaluation=None,
        numbers=numbers or StepNumbers(),
        since=time.monotonic(),
        mean_seconds=3600,
    )
    memory._join()


def recalled(
    folder: Path, warnings: Warnings, *, returns: int = 0, committed: int = 0, numbers: StepNumbers | None = None
) -> Recalled | None:
    with tier(folder, warnings, ("w1", "w2")) as memory:
        return memory.recall(state(0), returns=returns, committed=committed, numbers=numbers or StepNumbers())


@pytest.fixture
def warnings() -> Warnings:
    return []


@pytest.fixture
def kept(tmp_path: Path, warnings: Warnings) -> Path:
    """A folder with the snapshots of steps 3 and 6, and the numbers of the steps."""
    numbers = StepNumbers()
    with tier(tmp_path, warnings) as memory:
        for step in range(1, 7):
            numbers.add(step, 1 / step, 0.5)
            if step % 3 == 0:
                keep(memory, step, numbers=numbers)
    return tmp_path


def test_the_newest_snapshot_comes_back_bitwise_with_the_numbers_of_its_steps(kept: Path, warnings: Warnings) -> None:
    numbers, undisturbed = StepNumbers(), StepNumbers()
    for step in range(1, 7):
        undisturbed.add(step, 1 / step, 0.5)
    found = recalled(kept, warnings, numbers=numbers)
    assert found is not None
    assert found.step == 6
    for name, value in state(6).items():
        np.testing.assert_array_equal(np.asarray(found.state[name]), np.asarray(value))
    assert numbers.since(0, 6) == undisturbed.since(0, 6)
    assert warnings == []


def test_damage_leads_to_the_snapshot_before_and_then_to_the_store(kept: Path, warnings: Warnings) -> None:
    folder = Folder(kept)
    parts = {part.step: part for part in folder.parts()}
    for step, left in ((6, 3), (3, None)):
        folder.file(0, parts[step].files[-1].sha256).write_bytes(b"changed")
        found = recalled(kept, warnings)
        assert (None if found is None else found.step) == left
    assert all("not used" in warning for warning in warnings)


def test_a_newer_checkpoint_and_a_return_come_first(kept: Path, warnings: Warnings) -> None:
    assert recalled(kept, warnings, committed=7) is None
    assert recalled(kept, warnings, returns=1) is None
    with tier(kept, warnings) as memory:
        memory.forget()
    assert recalled(kept, warnings) is None


def test_a_snapshot_whose_losses_the_store_has_not_is_not_kept(tmp_path: Path, warnings: Warnings) -> None:
    with tier(tmp_path, warnings) as memory:
        memory.flushed = lambda: False
        keep(memory, 3)
    assert recalled(tmp_path, warnings) is None


def test_a_full_memory_costs_only_the_snapshot(kept: Path, warnings: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Folder, *args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "put", full)
    with tier(kept, warnings, ("w1", "w2")) as memory:
        keep(memory, 9)
        keep(memory, 12)
    (warning,) = warnings
    assert "No space left" in warning
    found = recalled(kept, warnings)
    assert found is not None
    assert found.step == 6


def test_a_chosen_interval_costs_at_most_a_hundredth_of_the_time(tmp_path: Path, warnings: Warnings) -> None:
    with tier(tmp_path, warnings) as memory:
        assert memory.is_time(time.monotonic())
        assert not memory.is_due(1)
        began = time.monotonic()
        memory.keep(
            3,
            state(3),
            returns=0,
            evaluation=None,
            numbers=StepNumbers(),
            since=began - 2.0,
            mean_seconds=1.0,
        )
        memory._join()
        assert not memory.is_time(began + 200)
        assert memory.is_time(began + 10_000)
    with tier(tmp_path, warnings, every_steps=5) as memory:
        assert [step for step in range(1, 11) if memory.is_due(step)] == [5, 10]
        assert not memory.is_time(time.monotonic())
