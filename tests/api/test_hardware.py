"""The rows of the hardware table agree with themselves and with the rules of the schema."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.hardware import TABLE, suggestion
from halcyon_api.hardware.kinds import Accelerator
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.validation import has_slow_sums
from tests.api.documents import minimal_spec

TPUS = [row for row in TABLE.values() if row.family == "tpu"]


def topologies(row: Accelerator) -> list[str]:
    cubes = (f"{4 * a}x{4 * b}x{4 * c}" for a, b, c in itertools.product(range(1, 9), repeat=3))
    return [*row.topologies, *(topology for topology in cubes if row.shape(topology) is not None)]


@pytest.mark.parametrize("row", TPUS, ids=lambda row: row.name)
def test_every_slice_has_as_many_chips_as_its_name_says(row: Accelerator) -> None:
    for name in topologies(row):
        shape = row.shape(name)
        assert shape is not None
        assert shape.hosts * shape.chips_per_host == math.prod(map(int, name.split("x")))
        assert shape.machine_type.endswith(f"-{shape.chips_per_host}t")
        assert shape.devices_per_host == shape.chips_per_host * row.devices_per_chip
        assert len(name) <= 16, "it must fit into accelerator.topology"


@pytest.mark.parametrize(
    ("name", "largest", "too_large"),
    [("v4", "16x16x16", "16x16x20"), ("v5p", "16x20x28", "16x24x24"), ("v7x", "16x24x24", "16x24x28")],
)
def test_slices_grow_up_to_a_number_of_cubes(name: str, largest: str, too_large: str) -> None:
    assert TABLE[name].shape(largest) is not None
    assert TABLE[name].shape(too_large) is None


@pytest.mark.parametrize(
    "topology", ["", "4", "axb", "4x4x4x4", "0x4x4", "-4x4x4", "4x4x", "4x4x6", "x", "2x", "99999x1"]
)
@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_an_invalid_topology_has_no_shape(row: Accelerator, topology: str) -> None:
    assert row.shape(topology) is None


def test_the_hardware_that_was_tried_is_that_of_the_results() -> None:
    """docs/hardware.md says of all other rows that they were never tried."""
    results = Path(__file__).parents[1] / "accelerator/results"
    assert {row.name for row in TABLE.values() if row.tried} == {
        "cpu",
        *(path.stem for path in results.glob("*.jsonl")),
    }


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_every_row_is_complete(row: Accelerator) -> None:
    assert row.source
    assert row.as_of
    assert row.provisioning[0] == "onDemand"
    if row.family == "cpu":
        return
    assert row.resource
    assert any(key == row.resource for key, _ in row.tolerated_taints)
    if row.name != "nvidia":
        assert row.memory_bytes is not None
        assert row.peak_flops_per_second is not None
        assert row.node_labels
        assert len(row.provisioning) > 1 or not row.machine, "GKE sells each machine with several kinds of provisioning"
    if row.fabric is not None:
        paths = [*row.fabric.host_paths, *(row.fabric.sidecar.host_paths if row.fabric.sidecar else ())]
        assert len({path.name for path in paths}) == len(set(paths)), "each directory must be one volume"


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_aliases_resolve_to_their_row(row: Accelerator) -> None:
    for alias in (*row.aliases, row.name, row.name.upper()):
        assert suggestion(alias) == row.name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("v5litepod-16", "v5e"),
        ("TPU-v5e", "v5e"),
        ("ironwood", "v7x"),
        ("h100-megs", "h100-mega"),
        ("nvidia-tesla-a100", "a100"),
        ("gpu", "nvidia"),
        ("v9", None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_a_misspelt_type_gets_a_suggestion(written: str, meant: str | None) -> None:
    assert suggestion(written) == meant


def test_every_row_is_accepted_by_the_schema() -> None:
    for row in TABLE.values():
        topology = row.topologies[0] if row.family == "tpu" else f"2x{row.largest_host}"
        for kind in row.provisioning:
            spec = AcceleratorSpec(
                type=row.name, topology=topology, provisioning=kind, reservation="r" if kind == "reservation" else None
            )
            assert spec.resolve().devices_per_host <= row.largest_host


@pytest.mark.parametrize(
    ("precision", "hardware", "slow"),
    [
        ({"products": "float8"}, "h100", True),
        ({"products": "float8", "narrowProducts": {"fastAccumulation": "forward"}}, "h200", True),
        ({"products": "float8", "narrowProducts": {"fastAccumulation": "always"}}, "h100", False),
        ({"products": "float8"}, "b200", False),
        ({"products": "int8"}, "h100", False),
        ({}, "h100", False),
    ],
)
def test_float8_with_exact_sums_is_warned_of_where_it_is_slow(
    precision: dict[str, Any], hardware: str, slow: bool
) -> None:
    section = {"type": hardware, "topology": "1x8"}
    spec = minimal_spec(spec__accelerator=section, spec__trainer__precision=precision)
    assert has_slow_sums(spec) is slow


@pytest.mark.parametrize(("fabric", "gigabits"), [(None, 800), ("eks-p5", 3200), ("infiniband", None), ("ours", None)])
def test_the_network_is_that_of_the_fabric(fabric: str | None, gigabits: int | None) -> None:
    spec = AcceleratorSpec(type="h100", topology="2x8", fabric=fabric)
    assert spec.network_bandwidth == (None if gigabits is None else gigabits * 10**9 // 8)
