"""Blocks of queries give what the whole square of positions gives."""

import functools

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.parts.attention import causal_attention

BATCH, POSITION, HEADS, GROUP, SIZE = hax.make_axes(batch=2, position=32, kv_heads=3, q_heads_per_group=2, head_size=4)
KEY_POSITION = POSITION.alias("key_position")


def attend(query, key, value, segments=None, **options):
    position = query.resolve_axis("position")
    return causal_attention(
        query,
        key,
        value,
        position=position,
        key_position=position.alias("key_position"),
        head_size=query.resolve_axis("head_size"),
        segment_ids=segments,
        **options,
    )


@functools.partial(jax.jit, static_argnames="block")
@functools.partial(jax.value_and_grad, has_aux=True)
def summary(arrays, weights, segments, block):
    out = attend(*arrays, segments, block=block)
    assert out.axes == arrays[0].axes
    return hax.sum(out * weights).scalar(), out


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_change_no_number(packed):
    noise = np.random.default_rng(0)

    def random(*axes):
        return hax.named(noise.standard_normal([axis.size for axis in axes], np.float32), axes)

    query, weights = (random(BATCH, POSITION, HEADS, GROUP, SIZE) for _ in range(2))
    key, value = (random(BATCH, KEY_POSITION, HEADS, SIZE) for _ in range(2))
    segments = hax.named(np.cumsum(noise.random((2, 32)) < 0.1, axis=1), (BATCH, POSITION)) if packed else None
    whole, parts = (summary((query, key, value), weights, segments, block) for block in (32, 8))
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_memory_grows_with_the_length_and_not_with_its_square():
    def scratch_bytes(length: int) -> int:
        position = hax.Axis("position", length)

        def shape(*axes):
            return jax.eval_shape(lambda: hax.zeros(axes, dtype=jnp.float32))

        query, key = shape(position, HEADS, GROUP, SIZE), shape(position.alias("key_position"), HEADS, SIZE)
        loss = jax.grad(lambda *arrays: hax.sum(attend(*arrays, block=64)).scalar(), (0, 1, 2))
        return jax.jit(loss).lower(query, key, key).compile().memory_analysis().temp_size_in_bytes

    assert scratch_bytes(4096) < 2.5 * scratch_bytes(2048)
