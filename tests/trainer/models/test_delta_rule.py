"""The gated delta rule in chunks is the recurrence, position by position; states begin with each segment."""

from __future__ import annotations

import functools

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.parts.delta_rule import delta_rule
from halcyon.models.parts.gated_delta_net import CausalConvolution

KEY_HEADS, VALUE_HEADS, KEY_SIZE, VALUE_SIZE = 2, 3, 4, 5


def drawn(positions: int, seed: int = 0, *, alike: float = 0.0) -> tuple[np.ndarray, ...]:
    """Queries, keys of length 1, values, decays and rates. `alike`: the part of a vector that all keys share."""
    noise = np.random.default_rng(seed)
    query = noise.standard_normal((2, KEY_HEADS, positions, KEY_SIZE))
    key = (1 - alike) * noise.standard_normal(query.shape) + alike * 10 * noise.standard_normal(
        (2, KEY_HEADS, 1, KEY_SIZE)
    )
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    value = noise.standard_normal((2, KEY_HEADS, VALUE_HEADS, positions, VALUE_SIZE))
    log_decay = -np.exp(noise.standard_normal(value.shape[:-1]) - 2)
    rate = 1 / (1 + np.exp(-noise.standard_normal(log_decay.shape) - 3 * alike))
    return tuple(array.astype(np.float32) for array in (query, key, value, log_decay, rate))


def recurrence(arrays: tuple[np.ndarray, ...], starts: np.ndarray) -> np.ndarray:
    """The rule as its definition says, in float64. `starts`: [batch, position]."""
    query, key, value, log_decay, rate = (array.astype(np.float64) for array in arrays)
    out = np.zeros_like(value)
    for batch, head, shared in np.ndindex(value.shape[:3]):
        state = np.zeros((KEY_SIZE, VALUE_SIZE))
        for at in range(value.shape[3]):
            if starts[batch, at]:
                state = np.zeros_like(state)
            here, k = (batch, head, shared, at), key[batch, head, at]
            state = state * np.exp(log_decay[here])
            state = state + np.outer(k, rate[here] * (value[here] - state.T @ k))
            out[here] = state.T @ query[batch, head, at]
    return out


def loop(arrays: tuple[jax.Array, ...], starts: jax.Array) -> jax.Array:
    """The same for JAX, which differentiates it."""
    query, key, value, log_decay, rate = arrays
    decay = jnp.where(starts[:, None, None, :], 0.0, jnp.exp(log_decay))

    def step(state: jax.Array, at: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v, a, b = at
        state = state * a[..., None, None]
        correction = b[..., None] * (v - jnp.einsum("bhrkv,bhk->bhrv", state, k))
        state = state + jnp.einsum("bhk,bhrv->bhrkv", k, correction)
        return state, jnp.einsum("bhrkv,bhk->bhrv", state, q)

    moved = (jnp.moveaxis(query, 2, 0), jnp.moveaxis(key, 2, 0), *(jnp.moveaxis(x, 3, 0) for x in (value, decay, rate)))
    _, out = jax.lax.scan(step, jnp.zeros((2, KEY_HEADS, VALUE_HEADS, KEY_SIZE, VALUE_SIZE)), moved)
    return jnp.moveaxis(out, 0, 3)


def starts_of(*segments: list[int]) -> np.ndarray:
    """True at the first position of each segment but the first, from the lengths of the segments of each row."""
    rows = [np.repeat(np.arange(len(lengths)), lengths) for lengths in segments]
    return np.stack([np.diff(row, prepend=row[0]) != 0 for row in rows])


STARTS = {
    "whole": starts_of([21], [21]),
    "uneven": starts_of([1, 6, 14], [8, 8, 5]),
    "many": starts_of([1] * 21, [3, 3, 3, 3, 3, 3, 3]),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_gated_delta_rule_in_chunks_is_the_recurrence(name: str) -> None:
    arrays, starts = drawn(21), STARTS[name]
    expected = recurrence(arrays, starts)
    found, _ = delta_rule(*arrays, jnp.asarray(starts), chunk=8)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_gradients_of_the_gated_delta_rule_are_those_of_the_recurrence() -> None:
    arrays, starts = tuple(map(jnp.asarray, drawn(21))), jnp.asarray(STARTS["uneven"])
    weights = jnp.asarray(np.random.default_rng(5).standard_normal(arrays[2].shape), jnp.float32)
    expected = jax.grad(lambda arrays: jnp.sum(weights * loop(arrays, starts)))(arrays)
    found = jax.grad(lambda arrays: jnp.sum(weights * delta_rule(*arrays, starts, chunk=8)[0]))(arrays)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()))


def test_keys_that_are_nearly_the_same_lose_no_precision() -> None:
    """The triangular system of a chunk is then badly conditioned for powers of its matrix, but not for its inverse by
    blocks.
    """
    arrays = drawn(64, alike=0.95)
    starts = np.zeros((2, 64), bool)
    expected = recurrence(arrays, starts)
    np.testing.assert_allclose(delta_rule(*arrays)[0], expected, atol=1e-5 * np.abs(expected).max())


def test_a_causal_convolution_sums_the_last_positions_of_its_segment() -> None:
    noise = np.random.default_rng(3)
    batch, position, features, taps = hax.make_axes(batch=2, position=9, embed=4, taps=3)
    weight, x = noise.standard_normal((4, 3)).astype(np.float32), noise.standard_normal((2, 9, 4)).astype(np.float32)
    segments = np.repeat([[0, 1, 2], [0, 0, 1]], 3, 1)
    segments[0, 3] = 0
    expected = np.zeros_like(x)
    for row, at, distance in np.ndindex(2, 9, 3):
        if at >= distance and segments[row, at] == segments[row, at - distance]:
            expected[row, at] += weight[:, 2 - distance] * x[row, at - distance]
    convolution = CausalConvolution(taps, "relu", hax.named(jnp.asarray(weight), (features, taps)))
    named = functools.partial(hax.named, axis=(batch, position))
    found = convolution(hax.named(jnp.asarray(x), (batch, position, features)), named(jnp.asarray(segments)))
    np.testing.assert_allclose(found.array, np.maximum(expected, 0), atol=1e-6)
