"""The rollouts in a root: what is read is what was written, under the name of its batch, and its size is bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halcyon.host.storage.records import DamagedRecord
from halcyon.host.storage.store import Store
from halcyon.run.policy.rollouts import (
    ROLLOUTS_PREFIX,
    Rollout,
    RolloutName,
    delete_old,
    find,
    names_in,
    unlike,
    write_rollout,
)
from halcyon.telemetry.history.samples import NEWEST
from halcyon_api.spec.checkpoint import CheckpointSpec

LOG_PROB = float(np.float32(-1.2345678))
NAME = RolloutName(7, 5, 2, "1914d145")
ONE = Rollout(
    batch=7,
    version=5,
    seed=3,
    prompts=[[65, 66]],
    tokens=[[5, 6, 7], [8, 0, 0]],
    counts=[3, 1],
    sampled=[[True, False, True], [True, False, False]],
    ended=[True, False],
    log_probs=[[LOG_PROB, 0.0, -0.1], [-2.5e-30, 0.0, 0.0]],
    rewards=[[0.1, 1.0]],
    mismatch=[1e-7, 0.0],
)


def store_in(root: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{root}"))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    sha256 = write_rollout(store, NAME, ONE)
    assert find(store, 7, 5) == (NAME, ONE, sha256)
    assert np.float32(ONE.log_probs[0][0]) == np.float32(-1.2345678)
    (tmp_path / ROLLOUTS_PREFIX / "notes").write_text("of another program")
    assert names_in(store) == [NAME]
    path = tmp_path / NAME.key
    assert path.name == "000000007.000000005.000002.1914d145.json.zst"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20] + b"x" + whole[21:], b""):
        path.write_bytes(data)
        with pytest.raises(DamagedRecord, match=r"rollouts/000000007\S+ is damaged"):
            find(store, 7, 5)
    with pytest.raises(
        DamagedRecord, match="there are no answers to batch 7 by the weights of step 6; there are those of step 5"
    ):
        find(store, 7, 6)


def test_the_answers_of_the_latest_start_count(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for start in (2, 10, 9):
        write_rollout(store, NAME._replace(start=start), replace(ONE, seed=start))
    assert find(store, 7, 5)[1].seed == 10


@pytest.mark.parametrize("change", [{"batch": 8}, {"version": 4}])
def test_a_file_of_another_batch_is_not_read_under_this_name(change: dict[str, int], tmp_path: Path) -> None:
    store, other = store_in(tmp_path), replace(ONE, **change)
    write_rollout(store, NAME, other)
    says = f"holds batch {other.batch} by the weights of step {other.version}, unlike its name"
    with pytest.raises(DamagedRecord, match=says):
        find(store, 7, 5)
    assert says in (unlike(store, ONE) or "")


def test_what_differs_is_named(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert unlike(store, ONE) is None, "there is nothing to compare with"
    write_rollout(store, NAME, ONE)
    assert unlike(store, ONE) is None
    assert unlike(store, replace(ONE, rewards=[[0.1, 0.5]])) == f"{NAME.key} has other rewards from prompt 0 on"
    assert unlike(store, replace(ONE, seed=4, mismatch=[0.0, 0.0])) == f"{NAME.key} has other seed, mismatch"
    two = replace(ONE, prompts=[[65], [66]], counts=[3, 1, 2, 2], rewards=[[0.1, 1.0], [0.0, 0.0]])
    write_rollout(store, NAME, two)
    assert unlike(store, replace(two, counts=[3, 1, 2, 1])) == f"{NAME.key} has other counts from prompt 1 on"


def test_what_checkpoints_and_replays_need_stays(tmp_path: Path) -> None:
    store, delay = store_in(tmp_path), 2
    for batch in range(20):
        write_rollout(store, NAME._replace(batch=batch, version=max(0, batch - delay)), ONE)
    delete_old(store, (3, NEWEST + 18), delay)
    assert sorted(name.batch for name in names_in(store)) == [3, 4, 18, 19]
