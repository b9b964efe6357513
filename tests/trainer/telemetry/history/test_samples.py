"""The files of samples: what is read is what was written, their number is bounded, and the command shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon.host.storage.records import DamagedRecord
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.samples import (
    NEWEST,
    Sample,
    StepSamples,
    is_kept,
    keep_first,
    key_of,
    read_samples,
    sampled_steps,
    thin_out,
    write_samples,
)
from halcyon_api.spec.checkpoint import CheckpointSpec

ONE = Sample("What is 1 + 1?", "#### 2", ("1 + 1 = 2\n#### 2", "\x1b[2Jthree"), (1.0, 0.0), (9, 24), (True, False))


def store_in(root: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{root}"))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store, found = store_in(tmp_path), StepSamples(7, "ab", (1.0, 0.1, -2.5e-300), (ONE,))
    write_samples(store, found)
    assert read_samples(store, 7) == found
    assert read_samples(store, 8) is None
    assert sampled_steps(store) == [7]
    path = tmp_path / key_of(7)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20] + b"x" + whole[21:], b""):
        path.write_bytes(data)
        with pytest.raises(DamagedRecord, match=r"samples/000000007.json.zst is damaged"):
            read_samples(store, 7)


def test_the_first_rewards_of_the_same_answers_count(tmp_path: Path) -> None:
    """Also if the other writer comes between the look and the write."""
    store = store_in(tmp_path)
    first, second = StepSamples(7, "ab", (1.0, 0.0), (ONE,)), StepSamples(7, "ab", (0.0, 1.0), (ONE,))

    class Late(Store):
        def swap(self, key: str, data: bytes, generation: bytes) -> bytes | None:
            if store.read(key).data is None:
                write_samples(store, first)
            return super().swap(key, data, generation)

    assert keep_first(Late(store.place), second) == first
    assert keep_first(store, second) == first
    assert read_samples(store, 7) == first
    other = StepSamples(7, "cd", (0.5, 0.5), (ONE,))
    assert keep_first(store, other) == other == read_samples(store, 7)
    (tmp_path / key_of(7)).write_bytes(b"torn")
    assert keep_first(store, second) == second == read_samples(store, 7)


def test_the_number_of_files_is_bounded_and_the_newest_stay() -> None:
    kept: set[int] = set()
    for newest in range(1, 20 * NEWEST):
        kept.add(newest)
        if newest % 64 == 0:
            kept = {step for step in kept if is_kept(step, newest)}
            assert len(kept) <= 2 * NEWEST
            assert set(range(max(1, newest - NEWEST + 1), newest + 1)) <= kept
    assert 64 in kept


def test_files_that_need_not_stay_are_deleted(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for step in (1, 2, NEWEST, NEWEST + 2):
        write_samples(store, StepSamples(step, "", (), ()))
    thin_out(store, NEWEST + 2)
    assert sampled_steps(store) == [2, NEWEST, NEWEST + 2]


def test_the_command_shows_them(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for step in (3, 5):
        write_samples(store, StepSamples(step, "ab", (1.0, 0.0), (ONE,)))
    run = CliRunner()
    shown = run.invoke(app, ["samples", str(tmp_path)])
    assert shown.exit_code == 0
    assert "Step 5: 2 answers, mean reward 0.5" in shown.output
    assert "reward 1, 9 tokens\n1 + 1 = 2\n#### 2" in shown.output
    assert "reward 0, 24 tokens, cut" in shown.output
    assert "\x1b[2J" not in shown.output
    document = json.loads(run.invoke(app, ["samples", str(tmp_path), "--step", "3", "--json"]).output)
    assert (document["step"], document["rewards"]) == (3, [1.0, 0.0])
    missing = run.invoke(app, ["samples", str(tmp_path), "--step", "4"])
    assert missing.exit_code != 0
    assert "step 4 has no samples; 2 steps from 3 to 5 have, the nearest is 3" in missing.output
    (tmp_path / "empty").mkdir()
    assert (
        "it has no samples; give the root of a run with objective.policy"
        in run.invoke(app, ["samples", str(tmp_path / "empty")]).output
    )
