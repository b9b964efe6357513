"""The tables of a ring: every visible pair of positions is computed exactly once, and the work of causal attention is
even.
"""

from __future__ import annotations

import numpy as np
import pytest
from haliax import Axis

from halcyon.models.parts.masks import Block, Causal, Mask, Prefix, Window
from halcyon.models.parts.ring_order import RingOrder, ring_order

MASKS: list[Mask | None] = [
    None,
    Causal(),
    Causal() & Window(5),
    Window(3),
    Causal() & Prefix(7),
]


def computed_pairs(order: RingOrder, positions: int) -> np.ndarray:
    """How often each pair of a query and a key is computed: [query, key]."""
    found = np.zeros((positions, positions), int)
    for device in range(order.devices):
        for step in range(order.steps):
            source = (device - step) % order.devices
            for number, first in enumerate(order.firsts[device]):
                for run in range(order.begin.shape[-1]):
                    for at in range(order.begin[device, source, number, run], order.end[device, source, number, run]):
                        key = order.firsts[source, at]
                        found[first : first + order.block, key : key + order.block] += 1
    return found


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize(
    ("positions", "devices", "block"), [(48, 2, 4), (48, 4, 3), (48, 3, 100), (48, 6, 2), (45, 3, 4), (16, 1, 4)]
)
def test_every_visible_pair_is_computed_once(mask: Mask | None, positions: int, devices: int, block: int) -> None:
    order = ring_order(mask, positions, devices, block)
    position = Axis("position", positions)
    keys = position.alias("key_position")
    visible = np.ones((positions, positions), bool)
    if mask is not None:
        visible = np.asarray(
            mask.visible(Block.all_of(position), Block.all_of(keys)).broadcast_to((position, keys)).array
        )
    found = computed_pairs(order, positions)
    assert found.max() <= 1
    assert found[visible].min(initial=1) == 1


@pytest.mark.parametrize("devices", [2, 4, 8, 7])
def test_causal_work_is_even_at_every_step(devices: int) -> None:
    order = ring_order(Causal(), devices * 16, devices, 8)
    assert order.zigzag
    assert {len(set(work)) for work in order.work.tolist()} == {1}
    in_order = ring_order(None, devices * 16, devices, 8)
    assert order.duration <= 0.5 * in_order.duration + devices + 1


def test_a_window_needs_neighbours_only() -> None:
    order = ring_order(Causal() & Window(1024), 32_768, 8, 512)
    assert (order.steps, order.zigzag) == (2, False)
    assert ring_order(Causal(), 32_768, 8, 512).steps == 8


@pytest.mark.parametrize(
    ("positions", "block", "expected"),
    [(4096, 512, 512), (8 * 1009, 512, 1009), (8 * 1536, 512, 512), (8 * 600, 512, 300)],
)
def test_a_block_divides_a_run(positions: int, block: int, expected: int) -> None:
    assert ring_order(Causal(), positions, 4, block).block == expected
