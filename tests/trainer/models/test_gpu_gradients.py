"""The backward kernels of attention for GPUs, in JAX's interpreter of Mosaic GPU: their numbers, and the tiles that they
compute.

The forward pass of tokamax cannot be interpreted (JAX 0.12 fails in it), so a plain one takes its place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts import tokamax_attention
from halcyon.models.parts.attention_choice import Target, attending
from halcyon.models.parts.gpu_backward import Backward, capped
from halcyon.models.parts.visible_tiles import latest_first_keys, tiles_of_keys, tiles_of_queries
from tests.accelerator.stages.gradients import all_tiles
from tests.trainer.models.gpus import interpreted_mosaic
from tests.trainer.models.test_attention_forms import Case, assert_equal_to_reference, computed

OWN = {"h100": "hopper", "b200": "blackwell"}


def module(gpu: str) -> Any:
    return importlib.import_module(f"halcyon.models.parts.{OWN[gpu]}_gradients")


def plain_forward(self: Any) -> tuple[jax.Array, jax.Array]:
    """What the forward kernel returns, from its own arrays."""
    query, key, value = (x.astype(jnp.float32) for x in self._arrays)
    key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], 2) for x in (key, value))
    position = jnp.arange(query.shape[1])
    seen = (position <= position[:, None]) & (position >= self._first[..., None])
    scores = capped(jnp.einsum("bqhd,bkhd->bhqk", query, key), self._soft_cap)[0]
    scores = jnp.where(seen[:, None], scores, -jnp.inf)
    log_totals = jax.nn.logsumexp(scores, -1)
    result = jnp.einsum("bhqk,bkhd->bqhd", jnp.exp(scores - log_totals[..., None]), value)
    return self._cut(result.astype(self._arrays[0].dtype), self._of_value), log_totals[:, :, : self._positions]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", OWN)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(130, 1, 2, 8, "segments", 9, 1.5, True, "bfloat16", 8, 1), id="documents, sinks and a cap"),
        pytest.param(
            Case(256, 1, 1, 16, "segments-window", 50, None, False, "bfloat16", 8, 2),
            id="documents and a window",
            marks=pytest.mark.variant,
        ),
        pytest.param(
            Case(300, 1, 1, 8, "window", 1, None, False, "bfloat16", 8, 3),
            id="a window of one",
            marks=pytest.mark.variant,
        ),
        pytest.param(
            Case(1, 1, 3, 8, "causal", 9, None, True, "bfloat16", 8, 4), id="one position", marks=pytest.mark.variant
        ),
    ],
)
def test_gradients_are_those_of_the_reference(case: Case, gpu: str) -> None:
    with interpreted_mosaic(), mock.patch.object(tokamax_attention._Kernel, "forward", plain_forward):
        found = computed(case, "tokamax", attending("tokamax", Target.of(GPUS[gpu])))
    assert_equal_to_reference(case, found)


def inputs(starts: list[int], *, positions: int, heads: int, of_keys: int, features: int, of_value: int) -> Backward:
    """Random inputs; documents begin at `starts`."""
    noise = np.random.default_rng(7)

    def random(*shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
        return jnp.asarray(noise.standard_normal((1, *shape)), dtype)

    first = np.array([max(start for start in starts if start <= i) for i in range(positions)], np.int32)
    return Backward(
        query=random(positions, heads, features),
        key=random(positions, of_keys, features),
        value=random(positions, of_keys, of_value),
        cotangent=random(positions, heads, of_value),
        log_totals=9 + random(heads, positions, dtype=jnp.float32),
        means=random(heads, positions, dtype=jnp.float32),
        first=jnp.asarray(first[None]),
    )


def bits(gpu: str, given: Backward) -> list[np.ndarray]:
    with interpreted_mosaic():
        return [np.asarray(x.astype(jnp.float32)).view(np.uint32) for x in module(gpu).gradients(given, None)]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", OWN)
@pytest.mark.parametrize(
    ("starts", "sizes"),
    [
        pytest.param([0, 128, 129, 320], (384, 2, 1, 64, 64), id="a document ends at the edge of a tile"),
        pytest.param([0, 100, 255], (256, 1, 1, 192, 128), id="MLA", marks=pytest.mark.variant),
        pytest.param([*range(256)], (256, 2, 2, 64, 64), id="each position alone", marks=pytest.mark.variant),
        pytest.param([0, 200], (256, 2, 1, 128, 128), id="128 features", marks=pytest.mark.variant),
    ],
)
def test_a_tile_that_is_left_out_would_change_no_bit(
    gpu: str, starts: list[int], sizes: tuple[int, int, int, int, int]
) -> None:
    names = ("positions", "heads", "of_keys", "features", "of_value")
    given = inputs(starts, **dict(zip(names, sizes, strict=True)))
    skipping = bits(gpu, given)
    with all_tiles(OWN[gpu]):
        whole = bits(gpu, given)
    for left, right in zip(skipping, whole, strict=True):
        np.testing.assert_array_equal(left & 0x7FFFFFFF, right & 0x7FFFFFFF)  # a zero may have another sign
        np.testing.assert_array_equal(left[left & 0x7FFFFFFF != 0], right[right & 0x7FFFFFFF != 0])


Ranges = Callable[..., jax.Array]


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("gpu", OWN)
@pytest.mark.parametrize("name", ["tiles_of_keys", "tiles_of_queries"])
@pytest.mark.parametrize("change", [(1, 0), (0, -1)], ids=["one tile late", "one tile early"])
def test_a_range_that_is_off_by_one_tile_changes_gradients(gpu: str, name: str, change: tuple[int, int]) -> None:
    given = inputs([0, 150], positions=256, heads=1, of_keys=1, features=64, of_value=64)
    right: Ranges = getattr(module(gpu), name)
    with mock.patch.object(module(gpu), name, lambda *call: right(*call) + jnp.array(change, jnp.int32)):
        found = bits(gpu, given)
    assert any((a != b).any() for a, b in zip(found, bits(gpu, given), strict=True))


def first_keys(seed: int, positions: int) -> Iterator[np.ndarray]:
    """First keys of documents, of a window, and of both."""
    noise = np.random.default_rng(seed)
    begins = noise.random(positions) < noise.choice([0.002, 0.02, 0.2, 1])
    begins[0] = True
    document = np.maximum.accumulate(np.where(begins, np.arange(positions), 0))
    window = np.maximum(np.arange(positions) - noise.integers(0, positions), 0)
    yield from (document, window, np.maximum(document, window))


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_exactly_the_tiles_that_a_query_sees(seed: int) -> None:
    positions, (queries, keys) = 512, [(128, 64), (64, 128), (64, 64), (128, 128)][seed % 4]
    for first in first_keys(seed, positions):
        given = jnp.asarray(first[None], jnp.int32)
        index = np.arange(positions)
        seen = (index[None] <= index[:, None]) & (index[None] >= first[:, None])
        tiles = seen.reshape(positions // queries, queries, positions // keys, keys).any((1, 3))
        for found, by_tile in (
            (tiles_of_keys(given, queries, keys), tiles),
            (tiles_of_queries(given, keys, queries), tiles.T),
        ):
            ranges = [(row.argmax(), len(row) - row[::-1].argmax()) for row in by_tile]
            np.testing.assert_array_equal(found[0], ranges)
            assert by_tile.sum() == sum(end - begin for begin, end in ranges)
        np.testing.assert_array_equal(latest_first_keys(given, queries)[0], first.reshape(-1, queries).max(1))
