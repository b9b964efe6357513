"""Every implementation of attention computes what the reference computes: values and gradients, for random shapes,
masks and options.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Implementation, Target, attending
from halcyon.models.parts.masks import Causal, Mask, Prefix, Segments, Window
from halcyon.parallel.partition import computing
from tests.trainer.support.meshes import mesh_from

INTERPRETED = Target("cpu", interpret=True)
TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2}
NAMES = ("none", "causal", "window", "segments", "segments-window", "window-alone", "some-see-nothing")


class Case(NamedTuple):
    """One call of attention."""

    length: int
    kv_heads: int
    group: int
    value_size: int
    mask: str
    window: int
    soft_cap: float | None
    sinks: bool
    dtype: str
    block: int
    seed: int

    def mask_of(self, segments: NamedArray) -> Mask | None:
        """The mask, with the ids of segments (batch, position)."""
        masks: dict[str, Mask | None] = {
            "none": None,
            "causal": Causal(),
            "window": Causal() & Window(self.window),
            "segments": Causal() & Segments(segments),
            "segments-window": Causal() & Window(self.window) & Segments(segments),
            "window-alone": Window(self.window),
            "some-see-nothing": Causal() & Window(self.window) & Prefix(self.length // 2),
        }
        return masks[self.mask]


def cases(
    *, lengths: st.SearchStrategy[int], masks: tuple[str, ...] = NAMES, options: bool = True
) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        length=lengths,
        kv_heads=st.sampled_from([2, 4]),
        group=st.integers(1, 3),
        value_size=st.sampled_from([8, 16]) if options else st.just(8),
        mask=st.sampled_from(masks),
        window=st.integers(1, 40),
        soft_cap=st.sampled_from([None, 1.5]) if options else st.none(),
        sinks=st.booleans() if options else st.just(False),
        dtype=st.sampled_from(["float32", "bfloat16"]),
        block=st.sampled_from([8, 13]),
        seed=st.integers(0, 2**16),
    )


def random(noise: np.random.Generator, dtype: str, *axes: hax.Axis) -> NamedArray:
    return hax.named(jnp.asarray(noise.standard_normal([axis.size for axis in axes]), dtype), axes)


def computed(
    case: Case, implementation: Implementation, context: contextlib.AbstractContextManager[Any] | None = None
) -> list[np.ndarray]:
    """The result, and the gradients with respect to query, key, value and sinks."""
    batch, position = hax.Axis("batch", 2), hax.Axis("position", case.length)
    keys, heads, group = (
        position.alias("key_position"),
        hax.Axis("kv_heads", case.kv_heads),
        hax.Axis("q_heads_per_group", case.group),
    )
    size, value = hax.Axis("head_size", 8), hax.Axis("value_size", case.value_size)
    noise = np.random.default_rng(case.seed)
    array = functools.partial(random, noise, case.dtype)
    inputs = (
        array(batch, position, heads, group, size),
        array(batch, keys, heads, size),
        array(batch, keys, heads, value),
        array(heads, group),
    )
    weights = array(batch, position, heads, group, value)
    segments = hax.named(np.cumsum(noise.random((2, case.length)) < 0.1, 1).astype(np.int32), (batch, position))

    def loss(inputs: tuple[NamedArray, ...], segments: NamedArray) -> tuple[jax.Array, NamedArray]:
        query, key, value, sinks = inputs
        out = attention(
            query,
            key,
            value,
            case.mask_of(segments),
            value_size=value.axes[-1],
            soft_cap=case.soft_cap,
            sinks=sinks if case.sinks else None,
            implementation=implementation,
            block=case.block,
        )
        return hax.sum((out * weights).astype(jnp.float32)).scalar(), out

    with context or contextlib.nullcontext():
        gradients, out = jax.jit(jax.grad(loss, has_aux=True))(inputs, segments)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, out))} == {jnp.dtype(case.dtype)}
    names = weights.axis_names
    return [np.asarray(x.array.astype(jnp.float32)) for x in (out.rearrange(names), *gradients)]


def assert_equal_to_reference(case: Case, found: list[np.ndarray]) -> None:
    tolerance = TOLERANCES[case.dtype]
    for left, right in zip(computed(case, "reference"), found, strict=True):
        np.testing.assert_allclose(right, left, rtol=tolerance, atol=tolerance * (1 + np.abs(left).max()))


FEW = settings(max_examples=3)
MANY = settings(max_examples=60)


def blocks_equal_the_reference(case: Case) -> None:
    assert_equal_to_reference(case, computed(case, "blockwise"))


def a_ring_equals_the_reference(case: Case, on: str) -> None:
    assert_equal_to_reference(case, computed(case, "ring", computing(mesh_from(on))))


def splash_equals_the_reference(case: Case) -> None:
    context = attending("splash", INTERPRETED)
    assert_equal_to_reference(case, computed(case._replace(block=128), "splash", context))


ANY = cases(lengths=st.integers(1, 50))
SPLIT = cases(lengths=st.sampled_from([12, 24, 36, 48, 60]))
MESHES = st.sampled_from(
    ["context 2", "data 2 x context 2 x tensor 2", "expert 2 x context 4", "context 3 x tensor 2", "context 6"]
)
KERNEL = cases(
    lengths=st.sampled_from([128, 256]),
    masks=("none", "causal", "window", "segments", "segments-window", "window-alone"),
)

test_blocks = FEW(given(ANY)(blocks_equal_the_reference))
test_rings = FEW(given(SPLIT, MESHES)(a_ring_equals_the_reference))
test_splash = settings(max_examples=2)(given(KERNEL)(splash_equals_the_reference))
test_more_blocks = pytest.mark.slow(pytest.mark.variant(MANY(given(ANY)(blocks_equal_the_reference))))
test_more_rings = pytest.mark.slow(pytest.mark.variant(MANY(given(SPLIT, MESHES)(a_ring_equals_the_reference))))
test_more_splash = pytest.mark.slow(
    pytest.mark.variant(settings(max_examples=20)(given(KERNEL)(splash_equals_the_reference)))
)


def test_a_program_for_a_tpu_calls_splash() -> None:
    """Lowered for TPUs without one. The kernels take all rows together: no loop."""
    batch, position, size = hax.Axis("batch", 2), hax.Axis("position", 256), hax.Axis("head_size", 128)
    keys, heads = position.alias("key_position"), hax.Axis("heads", 2)
    query, key = (
        hax.zeros((batch, position, heads, size), dtype=jnp.bfloat16),
        hax.zeros((batch, keys, heads, size), dtype=jnp.bfloat16),
    )
    ids = hax.zeros((batch, position), dtype=jnp.int32)

    def loss(query: NamedArray, key: NamedArray, ids: NamedArray) -> jax.Array:
        out = attention(query, key, key, Causal() & Segments(ids))
        return hax.sum(out.astype(jnp.float32)).scalar()

    with attending("auto", Target("tpu")):
        program = jax.jit(jax.grad(loss, (0, 1))).trace(query, key, ids).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("tpu_custom_call") >= 3, "one kernel forward and two backward"
    assert "stablehlo.while" not in program
