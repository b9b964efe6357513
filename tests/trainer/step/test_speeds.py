"""The nominal speeds of every accelerator type."""

from __future__ import annotations

import pytest

from halcyon.step.speeds import edge_links, rates_of
from halcyon_api.hardware import TABLE
from halcyon_api.spec.accelerator import AcceleratorSpec


@pytest.mark.parametrize(
    ("sides", "largest", "links"),
    [([2, 2, 2], 4, 3), ([4, 4, 4], 4, 6), ([2, 4], 16, 2), ([1, 1], 16, 0), ([16, 16], 16, 4)],
)
def test_a_chip_at_the_edge_has_one_link_along_a_side_that_is_no_ring(
    sides: list[int], largest: int, links: int
) -> None:
    assert edge_links(sides, largest=largest) == links


@pytest.mark.parametrize(
    "row", [row for row in TABLE.values() if row.family in ("tpu", "gpu")], ids=lambda row: row.name
)
def test_every_accelerator_has_its_speeds_on_one_host(row) -> None:
    if row.name == "nvidia":
        return
    topology = (row.topologies or (f"1x{row.largest_host}",))[-1]
    found = rates_of(AcceleratorSpec(type=row.name, topology=topology), 1)
    assert found is not None
    assert min(found.flops, found.memory, found.links) > 1e10
    assert 1e-4 < found.dispatch < 1e-3
    assert 0 <= found.latency < 1e-3
    assert (1e-6 < found.launch < 1e-5) if row.family == "gpu" else not found.launch
    between = rates_of(AcceleratorSpec(type=row.name, topology=topology, slices=2), 2)
    if row.name in ("v4", "v7x", "b300", "mi300x", "mi355x"):
        assert between is None, "the network between slices is not known"
    else:
        assert between is not None
        assert between.network is not None
        assert 1e9 < between.network < between.links
        assert between.island == row.shape(topology).devices_per_host * row.shape(topology).hosts
