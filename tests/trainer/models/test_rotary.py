"""Rotary positions: a part of a head, and given positions. `test_parity` compares the frequencies with transformers."""

from __future__ import annotations

import haliax as hax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray

from halcyon.models.parts.rotary import Rope, rotary_table, rotate
from tests.trainer.models import reference

LENGTH, HEADS, SIZE = hax.make_axes(position=9, heads=3, head_size=12)
QUERIES = np.random.default_rng(0).standard_normal((LENGTH.size, HEADS.size, SIZE.size))


def rotated(rope: Rope, positions: NamedArray | None = None) -> np.ndarray:
    x = hax.named(jnp.asarray(QUERIES, jnp.float32), (LENGTH, HEADS, SIZE))
    return np.asarray(rotate(x, rotary_table(LENGTH, SIZE, rope, positions), SIZE).array)


@pytest.mark.parametrize(("fraction", "features"), [(1.0, 12), (0.5, 6), (0.7, 8), (0.25, 2)])
def test_only_the_first_part_of_a_head_is_rotated(fraction: float, features: int) -> None:
    found = rotated(Rope(50.0, fraction=fraction))
    np.testing.assert_allclose(found[..., :features], reference.rotate(QUERIES[..., :features], 50.0), atol=1e-5)
    np.testing.assert_array_equal(found[..., features:], QUERIES[..., features:].astype(np.float32))


def test_positions_may_be_given() -> None:
    later = rotated(Rope(50.0), hax.named(jnp.arange(LENGTH.size) * 3, LENGTH))
    at_six = reference.rotate(np.repeat(QUERIES[2:3], 7, axis=0), 50.0)[6]
    np.testing.assert_allclose(later[2], at_six, atol=1e-5)
