"""Stochastic rounding goes to a neighbour, keeps small updates on average, and draws the same numbers on every mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.optim.rounding import add_updates, float8_stochastically_rounded, stochastically_rounded
from tests.trainer.support.meshes import mesh_of

KEY = jax.random.key(3)
SPREAD = np.random.default_rng(0).standard_normal(200) * np.logspace(-30, 30, 200)
VALUES = np.concatenate((SPREAD, [0.0, -0.0, 1.0, -1.0])).astype(np.float32)


def neighbours(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bfloat16 numbers next to float32 ones, towards zero and away from it; both are the number itself if it is a
    bfloat16 number.
    """
    below = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = ((x.view(np.uint32) | np.uint32(0xFFFF)) + np.uint32(1)).view(np.float32)
    return below, np.where(below == x, x, above)


def test_a_number_goes_to_one_of_its_neighbours_with_its_mean() -> None:
    draws = 20_000
    x = jnp.broadcast_to(jnp.asarray(VALUES), (draws, len(VALUES)))
    found = np.asarray(jax.jit(stochastically_rounded)(x, KEY).astype(jnp.float32))
    below, above = neighbours(VALUES)
    assert ((found == below) | (found == above)).all()
    share = np.where(
        above == below, 0.0, (VALUES - below) / np.where(above == below, 1.0, above - below).astype(np.float64)
    )
    np.testing.assert_allclose((found != below).mean(0), share, atol=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e3m4])
def test_a_float8_number_goes_to_one_of_its_neighbours_with_its_mean(dtype: Any) -> None:
    """Over all powers of 2 of the type, its numbers below the least power, and its greatest number."""
    facts = ml_dtypes.finfo(dtype)
    greatest, least = float(facts.max), float(facts.smallest_subnormal)
    draws = 20_000
    noise = np.random.default_rng(0).standard_normal(200) * np.logspace(-4, 2, 200)
    noise = np.clip(noise, -greatest, greatest)
    values = np.concatenate((noise, [0.0, 1.0, -1.0, greatest, -greatest, least, 0.75 * least])).astype(np.float32)
    x = jnp.broadcast_to(jnp.asarray(values), (draws, len(values)))
    found = np.asarray(jax.jit(float8_stochastically_rounded, static_argnums=1)(x, dtype, KEY).astype(jnp.float32))
    numbers = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    below = numbers[np.searchsorted(numbers, values, side="right") - 1]
    above = numbers[np.searchsorted(numbers, values, side="left")]
    assert ((found == below) | (found == above)).all()
    share = np.where(above == below, 0.0, (values - below) / np.where(above == below, 1.0, above - below))
    np.testing.assert_allclose((found != below).mean(0), share, atol=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_a_number_that_is_not_finite_stays(wrong: float) -> None:
    found = stochastically_rounded(jnp.full(64, wrong, jnp.float32), KEY)
    np.testing.assert_array_equal(found.astype(jnp.float32), np.full(64, wrong, np.float32))


def test_many_small_updates_move_a_parameter_as_far_as_in_float32() -> None:
    start = {"narrow": jnp.ones(500, jnp.bfloat16), "wide": jnp.ones(3)}
    update = {"narrow": jnp.full(500, 2.0**-12), "wide": jnp.full(3, 2.0**-12)}

    @functools.partial(jax.jit, static_argnums=1)
    def moved(parameters: Any, stochastic: bool) -> Any:
        def one(parameters: Any, key: jax.Array) -> tuple[Any, None]:
            return add_updates(parameters, update, key if stochastic else None), None

        return jax.lax.scan(one, parameters, jax.random.split(KEY, 256))[0]

    nearest, stochastic = moved(start, False), moved(start, True)
    assert (nearest["narrow"] == 1).all()
    assert stochastic["narrow"].dtype == jnp.bfloat16
    assert float(stochastic["narrow"].astype(jnp.float32).mean()) == pytest.approx(1 + 256 * 2**-12, abs=0.004)
    for found in (nearest, stochastic):
        np.testing.assert_allclose(found["wide"], 1 + 256 * 2**-12)


def test_every_mesh_draws_the_same_numbers() -> None:
    x = jnp.asarray(np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32))
    mesh = mesh_of(fsdp=4, tensor=2)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    rounded = jax.jit(stochastically_rounded)
    np.testing.assert_array_equal(rounded(spread, KEY), rounded(x, KEY))
    assert (np.asarray(rounded(x, KEY)) != np.asarray(x).astype(ml_dtypes.bfloat16)).any()
