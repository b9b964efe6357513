"""What a run and its samplers read and write: open work, leases, answers of two samplers, and what is deleted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from halcyon.host.storage.store import Store
from halcyon.run.policy import pool
from halcyon.run.policy.pool import Leases, Publisher, Weights, open_work, weights_in
from halcyon.run.policy.rollouts import Rollout, RolloutName, keep_first, write_rollout
from halcyon_api.checkpoint_documents import SAMPLING_PREFIX
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.trainer.run.policy.test_ahead import Alone

FIRST, SECOND = (1, "bb"), (2, "aa")
ANSWERS = Rollout(3, 1, 0, [[65]], [[7, 8]], [2], [[True, True]], [True], [[-0.5, -0.25]], [[1.0]], [0.0, 0.0])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{tmp_path}"))


def publisher(store: Store, start: tuple[int, str] = FIRST) -> Publisher:
    return Publisher(store, Alone(), start, {"spec.model": "ab"})


def work(store: Store) -> list[tuple[int, int, str]]:
    """Batch, version and writer."""
    return [(name.batch, name.version, name.writer) for name, _ in open_work(store, dict[str, Weights]())]


def test_open_work_is_that_of_the_latest_start_without_its_answers(store: Store) -> None:
    publisher(store).publish(0, [0, 1, 2], {"a": jnp.arange(4.0)})
    publisher(store).publish(1, [3], {"a": jnp.arange(4.0)})
    assert work(store) == [(0, 0, "bb"), (1, 0, "bb"), (2, 0, "bb"), (3, 1, "bb")]
    publisher(store, SECOND).publish(1, [3], {"a": jnp.arange(4.0)})
    write_rollout(store, RolloutName(1, 0, *FIRST), replace(ANSWERS, batch=1, version=0))
    write_rollout(store, RolloutName(3, 1, *FIRST), ANSWERS)
    assert work(store) == [(0, 0, "bb"), (2, 0, "bb"), (3, 1, "aa")]


def test_a_run_waits_for_the_answers_of_its_own_weights(store: Store) -> None:
    run = publisher(store, SECOND)
    run.publish(1, [3], {"a": jnp.arange(4.0)})
    write_rollout(store, RolloutName(3, 1, *FIRST), ANSWERS)
    assert not run.coming(3, 1)(0.0)
    write_rollout(store, RolloutName(3, 1, *SECOND), ANSWERS)
    assert run.coming(3, 1)(0.0)
    third = publisher(store, (3, "cc"))
    assert third.coming(3, 1)(0.0), "answers of weights before its first step are those of any start"
    assert third.coming(2, 0)(0.0), "nobody can answer, so the read must say so at once"


def test_used_weights_are_deleted(store: Store) -> None:
    run = publisher(store)
    run.publish(0, [0, 1], {"a": jnp.arange(4.0)})
    run.publish(1, [2], {"a": jnp.arange(4.0)})
    assert Leases(store, "one").take(RolloutName(1, 0, *FIRST))
    run.delete_used(0)
    assert len(weights_in(store, {})) == 2
    run.delete_used(1)
    assert [one.version for one in weights_in(store, {})] == [1]
    assert all(f"{1:09d}.000001" in key for key in store.list(SAMPLING_PREFIX))


def test_a_lease_is_taken_over_when_it_has_not_changed_for_long(store: Store) -> None:
    now = 0.0
    name, (one, two) = RolloutName(3, 1, *FIRST), (Leases(store, word, lambda: now) for word in ("one", "two"))
    two.batch_seconds = 10.0
    assert one.take(name)
    assert not two.take(name)
    now = pool._LEASE_TIMES * 10 - 1
    assert not two.take(name)
    now += 1
    assert two.take(name)
    one.give_back(name)
    assert two.take(name), "its sampler has answered"


def test_two_samplers_must_give_the_same_answers(store: Store) -> None:
    name = RolloutName(3, 1, *FIRST)
    assert keep_first(store, name, ANSWERS) is None
    assert keep_first(store, name, ANSWERS) is None
    assert keep_first(store, name, replace(ANSWERS, rewards=[[2.0]])) is None, "a reward may come from a service"
    other = replace(ANSWERS, tokens=[[7, 9]], log_probs=[[-0.5, -0.3]])
    assert keep_first(store, name, other) == "tokens, log_probs"
