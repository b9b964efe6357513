"""Sums over batch and positions are float32 for any compute type: compared with float64, and read from the jaxpr."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from halcyon.models import Inputs
from halcyon.models.parts import self_attention
from halcyon.models.parts.attention import attention
from halcyon.models.parts.embedding import look_up
from halcyon.models.parts.masks import Causal
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, shardings
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.mesh import ResolvedMesh
from tests.trainer.models.cases import (
    EVERY_PART,
    FAMILIES,
    GPT2,
    TIED_LLAMA,
    VOCAB,
    loss_and_gradient,
    make,
    named,
    shapes,
)
from tests.trainer.models.reference import named_leaves

pytestmark = pytest.mark.slow

FREQUENT = 5
"""The token at about nine tenths of all positions of a batch."""
SIZES = pytest.mark.parametrize(
    ("length", "rows"),
    [pytest.param(256, 4, id="T256-B4"), pytest.param(2048, 8, id="T2048-B8", marks=pytest.mark.variant)],
)
MESHES = [
    None,
    ResolvedMesh(replica=1, data=1, fsdp=4, tensor=1),
    ResolvedMesh(replica=2, data=1, fsdp=2, tensor=2),
    ResolvedMesh(replica=1, data=1, fsdp=2, context=2, tensor=2),
]


def tokens_of(length: int, rows: int) -> np.ndarray:
    noise = np.random.default_rng(0)
    return np.where(noise.random((rows, length)) < 0.9, FREQUENT, noise.integers(0, VOCAB.size, (rows, length))).astype(
        np.int32
    )


def off(found: Any, expected: Any) -> float:
    """Relative error: the norm of the difference divided by the norm of `expected`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def errors(found: Any, expected: Any) -> dict[str, float]:
    """The relative error of the gradient of each parameter.

    Gradients that are only rounding, as of the biases of keys, are left out.
    """
    wanted = {path: np.asarray(leaf.array, np.float64) for path, leaf in named_leaves(expected).items()}
    whole = max(np.linalg.norm(each) for each in wanted.values())
    counted = {path for path, each in wanted.items() if np.linalg.norm(each) > 1e-5 * whole}
    return {path: off(leaf.array, wanted[path]) for path, leaf in named_leaves(found).items() if path in counted}


@SIZES
@pytest.mark.parametrize("resolved", MESHES, ids=["one-device", "fsdp", "replica-fsdp-tensor", "fsdp-context-tensor"])
def test_the_gradient_of_a_table_is_the_sum_of_its_vectors_however_often_a_token_occurs(length, rows, resolved):
    embed = hax.Axis("embed", 16)
    indices = named(tokens_of(length, rows))
    weight = hax.named(jnp.zeros((VOCAB.size, embed.size)), (VOCAB, embed))
    # The cotangents of all positions of a token have nearly the same direction. There a bfloat16 sum stops growing.
    vectors = 1e-3 * (1 + 0.5 * np.random.default_rng(1).standard_normal((rows, length, embed.size)))
    cotangent = hax.named(jnp.asarray(vectors, jnp.bfloat16), (*indices.axes, embed))

    def gradient(weight, indices, cotangent):
        return jax.vjp(lambda weight: look_up(weight, indices, VOCAB, jnp.dtype(jnp.bfloat16)), weight)[1](cotangent)[0]

    if resolved is None:
        found = jax.jit(gradient)(weight, indices, cotangent)
    else:
        mesh = build_mesh(resolved, jax.devices()[: resolved.devices])
        placed = [jax.device_put(each, shardings(each, mesh, COMPUTE_AXES)) for each in (indices, cotangent)]
        with computing(mesh):
            found = jax.jit(gradient)(jax.device_put(weight, shardings(weight, mesh, PARAMETER_AXES)), *placed)
    expected = np.zeros((VOCAB.size, embed.size))
    np.add.at(expected, indices.array, np.asarray(cotangent.array, np.float64))
    assert found.dtype == jnp.float32
    for token in range(VOCAB.size):
        assert off(found.array[token], expected[token]) < 1e-5


@pytest.mark.parametrize(
    ("length", "rows"),
    [pytest.param(256, 4, id="T256-B4"), pytest.param(2048, 8, id="T2048-B8", marks=pytest.mark.variant)],
)
@pytest.mark.parametrize("spec", [GPT2, TIED_LLAMA], ids=["gpt2", "tied-llama"])
def test_gradients_by_token_and_by_position_are_those_of_wide_compute(spec, length, rows):
    """The error is that of bfloat16 activations, which does not grow with the number of positions."""
    if length > 256 and spec is TIED_LLAMA:
        pytest.skip("the same sums as in gpt2")
    model = make(spec, length=length)
    tokens = tokens_of(length, rows)
    targets = np.roll(tokens, -1, axis=1)
    arrays = [
        named(each) for each in (tokens, targets, np.ones(tokens.shape, np.float32), np.zeros(tokens.shape, np.int32))
    ]
    gradients = jax.jit(lambda *inputs, dtype: loss_and_gradient(*inputs, dtype=dtype)[1], static_argnames="dtype")
    narrow, wide = (named_leaves(gradients(model, *arrays, dtype=dtype)) for dtype in ("bfloat16", "float32"))
    for path in ("embedding/weight", "positions/weight") if spec is GPT2 else ("embedding/weight",):
        assert off(narrow[path].array, wide[path].array) < 0.03, path
    assert off(narrow["embedding/weight"].array[FREQUENT], wide["embedding/weight"].array[FREQUENT]) < 0.02


@pytest.mark.variant
def test_gradients_of_keys_and_values_do_not_get_worse_with_more_blocks_of_queries():
    batch, length, heads, size = hax.make_axes(batch=1, position=8192, kv_heads=1, head_size=8)
    keys = length.alias("key_position")
    noise = np.random.default_rng(0)

    def random(*axes):
        return hax.named(jnp.asarray(noise.standard_normal([axis.size for axis in axes]) + 0.5, jnp.bfloat16), axes)

    query, weights = random(batch, length, heads, size), random(batch, length, heads, size)
    key, value = random(batch, keys, heads, size), random(batch, keys, heads, size)

    @functools.partial(jax.jit, static_argnames=("dtype", "block"))
    def gradient(key, value, dtype, block):
        def loss(key, value):
            out = attention(
                query.astype(dtype),
                key,
                value,
                Causal(),
                block=block,
            )
            return hax.sum((out * weights.astype(dtype)).astype(jnp.float32)).scalar()

        return jax.grad(loss, (0, 1))(key.astype(dtype), value.astype(dtype))

    wide = gradient(key, value, "float32", 512)
    for block in (2048, 64):
        for narrow, expected in zip(gradient(key, value, "bfloat16", block), wide, strict=True):
            assert off(narrow.array.astype(jnp.float32), expected.array) < 0.0045, block


FURTHER = [pytest.param(family, marks=pytest.mark.variant) for family in ("qwen3", "gemma2", "glm4-moe")]


@pytest.mark.parametrize("family", ["gpt2", "gpt-oss", *FURTHER])
def test_the_gradient_of_copies_of_a_sequence_is_that_of_one_times_their_number(family):
    """Each gradient is a sum of equal terms: those of norms of each form, biases, sinks, routers and experts too.

    Rounding the sum to bfloat16 just once would make it wrong by 1/1000; a sum in bfloat16 is wrong by much more. The
    gradient of one copy is that of a batch in which the others have the weight 0, so that both sums have the same terms
    to the last bit.
    """
    model, copies = make(FAMILIES[family], length=8), 256
    gradients = jax.jit(loss_and_gradient, static_argnames="dtype")

    def gradient(rows):
        tokens = np.broadcast_to(tokens_of(8, 1), (copies, 8))
        weights = np.broadcast_to(np.arange(copies)[:, None] < rows, tokens.shape).astype(np.float32)
        arrays = (tokens, np.roll(tokens, -1, axis=1), weights, np.zeros(tokens.shape, np.int32))
        return gradients(model, *map(named, arrays), dtype="bfloat16")[1]

    expected = jax.tree.map(lambda total: total * copies, gradient(1))
    for path, error in errors(gradient(copies), expected).items():
        assert error < 5e-5, path


BATCH, LENGTH, BLOCK = 7, 44, 11
"""Sizes that no other axis of the models has, so that a sum's axis can be recognised by its size."""


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in program.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from equations(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from equations(inner)


def narrow_sums(program: Jaxpr) -> list[str]:
    """Sums with a bfloat16 result: over rows of the batch, over positions (except in a matrix product), and those of
    embedding look-ups.
    """
    found = []
    for equation in equations(program):
        if not equation.outvars or getattr(equation.outvars[0].aval, "dtype", None) != jnp.bfloat16:
            continue
        name, shape = equation.primitive.name, getattr(equation.invars[0].aval, "shape", ())
        if name == "dot_general":
            narrow = BATCH in {shape[axis] for axis in equation.params["dimension_numbers"][0][0]}
        elif name == "reduce_sum":
            narrow = bool({BATCH, LENGTH, BLOCK} & {shape[axis] for axis in equation.params["axes"]})
        else:
            narrow = name in ("scatter-add", "psum", "reduce_scatter", "cumsum")
        if narrow:
            found.append(str(equation))
    return found


@EVERY_PART
@pytest.mark.parametrize("parameters", ["float32", pytest.param("bfloat16", marks=pytest.mark.variant)])
def test_no_sum_over_the_batch_is_narrow(spec, parameters, monkeypatch):
    monkeypatch.setattr(self_attention, "attention", functools.partial(attention, block=BLOCK))
    model = shapes(spec, length=LENGTH, dtype=parameters)
    rows = [jax.ShapeDtypeStruct((BATCH, LENGTH), dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32, jnp.int32)]

    def gradient(model, tokens, targets, weights, segments):
        arrays = [hax.named(each, ("batch", "position")) for each in (tokens, targets, weights, segments)]
        inputs = Inputs(arrays[0], segments=arrays[3])
        return jax.grad(lambda model: next_token_sums(model, inputs, *arrays[1:3], compute_dtype="bfloat16").loss)(
            model
        )

    program = jax.make_jaxpr(gradient)(model, *rows)
    assert narrow_sums(program.jaxpr) == []
