"""Replicated pieces are distributed over their holders: all processes compute the same assignment, and the loads are
balanced.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.checkpoint import layout, snapshot
from halcyon.checkpoint.broadcast import partition_of
from halcyon.checkpoint.layout import Held, assign, who_holds
from halcyon.checkpoint.snapshot import Snapshotter
from tests.trainer.checkpoint.helpers import SHARDINGS, mesh, numbers, on

PIECES = st.lists(
    st.tuples(st.integers(0, 1000), st.sets(st.integers(0, 5), min_size=1).map(lambda one: tuple(sorted(one)))),
    max_size=60,
)


@given(PIECES, st.dictionaries(st.integers(0, 5), st.integers(0, 3000)))
def test_every_piece_goes_to_one_of_its_holders_and_the_loads_add_up(
    pieces: list[tuple[int, tuple[int, ...]]], before: dict[int, int]
) -> None:
    loads = dict(before)
    chosen = assign([size for size, _ in pieces], [group for _, group in pieces], loads)
    assert all(process in group for process, (_, group) in zip(chosen, pieces, strict=True))
    assert {process: load for process, load in loads.items() if load} == {
        process: load
        for process in range(6)
        if (
            load := before.get(process, 0)
            + sum(size for to, (size, _) in zip(chosen, pieces, strict=True) if to == process)
        )
    }
    again = dict(before)
    assert assign([size for size, _ in pieces], [group for _, group in pieces], again) == chosen


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=200), st.integers(1, 8))
def test_equal_holders_have_loads_that_differ_by_at_most_the_largest_piece(sizes: list[int], count: int) -> None:
    loads: dict[int, int] = dict.fromkeys(range(count), 0)
    assign(sizes, [tuple(range(count))] * len(sizes), loads)
    assert max(loads.values()) - min(loads.values()) <= max(sizes)
    assert sum(loads.values()) == sum(sizes)


def test_a_process_with_a_large_load_gets_no_more_pieces() -> None:
    loads = {0: 1000}
    assert set(assign([10] * 9, [(0, 1, 2)] * 9, loads)) == {1, 2}


def test_the_holders_of_each_piece_of_an_array_are_found() -> None:
    sharding = NamedSharding(mesh(2, 2), PartitionSpec("fsdp"))
    assert who_holds(sharding, (4, 3)) == (
        Held((slice(0, 2), slice(0, 3)), (0,)),
        Held((slice(2, 4), slice(0, 3)), (0,)),
    )


@pytest.mark.parametrize("on_host", [True, False])
def test_a_share_is_copied_bitwise(monkeypatch: pytest.MonkeyPatch, on_host: bool) -> None:
    """Three processes that all hold the whole state; from host memory, or as from an accelerator with a few transfers
    at a time.
    """
    monkeypatch.setattr(layout, "CHUNK_LIMIT_BYTES", 64)
    monkeypatch.setattr(snapshot, "_on_host", lambda device, sharding: on_host)
    monkeypatch.setattr(snapshot, "_EXTRA_DEVICE_BYTES", 100)
    monkeypatch.setattr(
        layout,
        "who_holds",
        lambda sharding, shape: [Held(one.region, (0, 1, 2)) for one in who_holds(sharding, shape)],
    )
    arrays = numbers(3)
    state = on(mesh(2, 2), arrays, dict.fromkeys(SHARDINGS, PartitionSpec()))
    taken = [Snapshotter(process, 3).take(state) for process in range(3)]
    rebuilt = {name: np.zeros_like(array) for name, array in arrays.items()}
    names = [leaf.path for leaf in taken[0].leaves]
    written = {name: np.zeros(np.shape(array), int) for name, array in arrays.items()}
    for one in taken:
        for shard in one.shards:
            rebuilt[names[shard.leaf]][shard.region] = shard.data
            written[names[shard.leaf]][shard.region] += 1
    assert all(rebuilt[name].tobytes() == np.asarray(arrays[name]).tobytes() for name in names)
    assert all(np.all(counts == 1) for counts in written.values())
    assert sorted(index for one in taken for index in one.metadata) == list(range(len(names)))
    assert max(one.size_bytes for one in taken) - min(one.size_bytes for one in taken) <= 64
    assert sum(one.size_bytes for one in taken) == taken[0].state_bytes


def test_a_share_does_not_change_when_the_state_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_LIMIT_BYTES", 1 << 10)
    monkeypatch.setattr(
        layout, "who_holds", lambda sharding, shape: [Held(one.region, (0, 1)) for one in who_holds(sharding, shape)]
    )
    spoil = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = {"x": jnp.arange(1024.0)}
    taken = Snapshotter(0, 2).take(state)
    spoil(state["x"])
    assert len(taken.shards) == 2
    assert all(np.array_equal(shard.data, np.arange(1024, dtype=np.float32)[shard.region]) for shard in taken.shards)


@pytest.mark.parametrize(
    ("holders", "count", "groups"),
    [
        ([(0, 1, 2)], 3, ((0, 1, 2),)),
        ([(0, 2), (1, 3), (0, 2)], 4, ((0, 2), (1, 3))),
        ([(0,), (1,)], 2, None),  # no piece has two holders
        ([(0, 1), (1, 2), (0, 2)], 3, None),  # each process is in two groups
        ([(0, 1), (2,)], 3, None),
        ([(0, 1)], 3, None),  # process 2 holds nothing
    ],
)
def test_processes_that_hold_the_same_pieces_form_a_group(
    holders: list[tuple[int, ...]], count: int, groups: tuple[tuple[int, ...], ...] | None
) -> None:
    assert partition_of(holders, count) == groups
