"""The layout is a pure function of shapes: every element is in exactly one file, no file is too large, no two arrays
share a folder.
"""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from halcyon.checkpoint.layout import (
    chunk_key,
    chunk_limit,
    chunk_region,
    chunk_shape,
    chunks_of,
    describe,
    expected_files,
    flatten,
    folder,
    state_bytes,
)
from halcyon_api.checkpoint_documents import ManifestLeaf

SHAPES = st.lists(st.integers(1, 12), min_size=0, max_size=3).map(tuple)


@given(SHAPES, st.integers(1, 4000))
def test_chunks_divide_the_shard_and_are_no_larger_than_the_limit(shard: tuple[int, ...], limit: int) -> None:
    chunk = chunk_shape(shard, 4, limit)
    assert all(size % part == 0 for size, part in zip(shard, chunk, strict=True))
    assert math.prod(chunk) * 4 <= limit or math.prod(chunk) == 1


@pytest.mark.parametrize(
    ("shard", "itemsize", "limit", "chunk"),
    [
        ((), 4, 1, ()),
        ((0, 4), 4, 1 << 20, (1, 4)),
        ((8, 4), 4, 1 << 20, (8, 4)),
        ((4096, 4096), 4, 32 << 20, (2048, 4096)),
        ((50257, 768), 4, 32 << 20, (50257, 96)),  # an odd dimension is not split while another can be halved
        ((100003,), 4, 1 << 10, (1,)),
    ],
)
def test_how_shards_are_split(shard: tuple[int, ...], itemsize: int, limit: int, chunk: tuple[int, ...]) -> None:
    assert chunk_shape(shard, itemsize, limit) == chunk


@given(SHAPES, st.data())
def test_chunks_of_a_region_cover_it_once(shape: tuple[int, ...], data: st.DataObject) -> None:
    chunk = tuple(
        data.draw(st.sampled_from([part for part in range(1, size + 1) if size % part == 0])) for size in shape
    )
    leaf = ManifestLeaf(path="x", shape=shape, dtype="float32", chunk_shape=chunk)
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    region = tuple(
        slice(start, data.draw(st.integers(start + 1, size))) for start, size in zip(starts, shape, strict=True)
    )
    hits = np.zeros(shape, int)
    files = expected_files([leaf])
    for indices in chunks_of(leaf, region):
        assert f"x/{chunk_key(indices)}" in files
        hits[chunk_region(leaf, indices)] += 1
    assert (hits[region] == 1).all()
    assert hits.max(initial=0) <= 1
    assert len(files) == 1 + len(list(chunks_of(leaf)))


def test_an_array_without_elements_has_no_chunks() -> None:
    leaf = ManifestLeaf(path="x", shape=(0, 4), dtype="float32", chunk_shape=(1, 4))
    assert list(chunks_of(leaf)) == []
    assert expected_files([leaf]) == {"x/zarr.json"}


@given(st.sets(st.text(min_size=0, max_size=400), min_size=2, max_size=30))
def test_every_path_has_its_own_folder_with_a_name_that_every_store_accepts(paths: set[str]) -> None:
    folders = {folder(path) for path in paths}
    assert len(folders) == len(paths)
    for name in folders:
        assert 0 < len(name) <= 200
        assert name.isascii()
        assert not set(name) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-=")
        assert name not in (".", "..")


def test_plain_paths_are_their_own_folders() -> None:
    assert folder("model.blocks.mlp.up.weight") == "model.blocks.mlp.up.weight"
    assert folder("a[0]/b") == "a=5B0=5D=2Fb"


@pytest.mark.parametrize(
    ("parameters", "least", "most"), [(1e8, 2_000, 2_500), (8e9, 2_000, 5_000), (405e9, 15_000, 40_000)]
)
def test_a_larger_state_has_larger_chunks_and_a_bounded_number_of_files(
    parameters: float, least: int, most: int
) -> None:
    """Stacked matrices of a Llama on 64 devices, three times: the parameters and AdamW's two moments."""
    width = 64 * round((parameters / 12 / 32) ** 0.5 / 64)
    mesh = AbstractMesh((64,), ("fsdp",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    shapes = [jax.ShapeDtypeStruct((32, width, width), np.float32, sharding=sharding) for _ in range(36)]
    leaves = flatten(shapes)
    files = sum(sum(1 for _ in chunks_of(describe(leaf, chunk_limit(state_bytes(leaves))))) for leaf in leaves)
    assert least < files < most
