"""Moments in bfloat16 and in 8 bits: small errors, no bias, the same bits on every mesh, and the bytes that the type
promises.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.axes import is_named
from halcyon.optim import build_optimizer
from halcyon.optim.rounding import FACTORS, MEANS, SQUARES, Scaled
from halcyon.parallel.axes import constrain, shardings
from halcyon.parallel.partition import computing
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.models.cases import LLAMA, changed, make, shapes
from tests.trainer.support.meshes import mesh_from

NARROW = tuple(name for name, rule in OptimizerSpec.rule_classes().items() if not rule.wide_only)
KEY = jax.random.key(0)


def spec_of(rule: str, **settings: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate({rule: settings, "maxGradientNorm": 0})


@functools.cache
def model() -> Any:
    return make(LLAMA)


def gradients(number: int) -> Any:
    """Gradients whose rows and elements differ by orders of magnitude."""
    noise = np.random.default_rng(number)
    return jax.tree.map(
        lambda x: jnp.asarray(noise.standard_normal(x.shape) * 10.0 ** noise.uniform(-4, 0, x.shape), jnp.float32),
        model(),
    )


def update(optimizer: Any, state: Any, gradient: Any, number: int) -> tuple[Any, Any]:
    arguments = {"learning_rate": jnp.float32(1e-3), "weight_decay": jnp.float32(0), "step": jnp.int32(number)}
    return optimizer.update(gradient, state, model(), key=jax.random.fold_in(KEY, number), **arguments)


def after(rule: str, kind: Any, steps: int = 3, **settings: Any) -> tuple[Any, Any]:
    """The last change and the state of a rule after some steps."""
    optimizer = build_optimizer(spec_of(rule, **settings), model(), kind)
    state, change = optimizer.init(model()), None
    step = jax.jit(functools.partial(update, optimizer))
    for number in range(steps):
        change, state = step(state, gradients(number), number)
    return change, state


def named(state: Any) -> list[tuple[str, Any]]:
    """The field and the array of each named array of a rule's state."""
    entries = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_named)
    known = MEANS | SQUARES | FACTORS
    return [
        (next((entry.name for entry in path if getattr(entry, "name", "") in known), ""), x)
        for path, x in entries
        if is_named(x)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rule", NARROW)
def test_each_array_of_a_state_belongs_to_a_known_field(rule: str) -> None:
    """A mean of squares is never negative, and a mean of gradients has both signs."""
    _, state = after(rule, "float32")
    found = named(state[1])
    assert all(field for field, _ in found)
    for field, x in found:
        if field in SQUARES:
            assert float(x.array.min()) >= 0
        if field in MEANS and x.size > 8:
            assert float(x.array.min()) < 0 < float(x.array.max())


def test_moments_of_8_bits_are_near_those_of_float32() -> None:
    """A first moment is off by at most the distance of two neighbours, and so is the root of a second moment."""
    wide, narrow = (after("adamw", kind, steps=1)[1][1] for kind in ("float32", "float8"))
    assert isinstance(narrow, Scaled)
    scales = jax.tree.leaves(narrow.scales, is_leaf=is_named)
    rows = 0
    for (field, x), (_, value) in zip(named(wide), named(narrow.values), strict=True):
        if value.array.dtype == jnp.float32:
            np.testing.assert_array_equal(x.array, value.array)
            continue
        scale, rows = scales[rows], rows + 1
        over = next(number for number, axis in enumerate(x.axes) if axis not in scale.axes)
        spread = np.expand_dims(np.asarray(scale.array), over)
        found, right = (np.asarray(each, np.float64) for each in (value.array.astype(jnp.float32), x.array))
        right = np.sqrt(right) if field in SQUARES else right
        facts = jnp.finfo(value.array.dtype)
        distance = np.maximum(np.abs(right) * 2.0**-facts.nmant, spread * float(facts.smallest_subnormal))
        assert (np.abs(found * spread - right) <= distance).all()
        assert (
            np.abs(found).max(over) > float(facts.max) / 2 / (1 + 1 / 8)
        ).all()  # the scale uses the range of the type
        if field in SQUARES:
            assert ((found > 0) | (right == 0)).all()
    assert (
        rows == len(scales) == 2 * (1 + 7 + 1)
    )  # both moments of the embedding, the matrices of a layer, and the head


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, marks=() if rule in ("adamw", "lion", "muon") else pytest.mark.variant) for rule in NARROW],
)
def test_an_update_of_moments_of_8_bits_points_where_that_of_float32_does(rule: str) -> None:
    wide, narrow = (after(rule, kind)[0] for kind in ("float32", "float8"))
    for left, right in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), strict=True):
        left, right = np.asarray(left, np.float64).ravel(), np.asarray(right, np.float64).ravel()
        assert left @ right >= 0.9 * np.linalg.norm(left) * np.linalg.norm(right)


@pytest.mark.parametrize("rule", ["adamw", "lion", "muon"])
def test_moments_of_8_bits_take_a_quarter_of_the_bytes(rule: str) -> None:
    """Rows have at least 240 numbers here, so scales add at most 4 bytes for 240."""
    large = shapes(changed(LLAMA, hidden_size=240, intermediate_size=480))

    def size(kind: Any) -> int:
        state = jax.eval_shape(build_optimizer(spec_of(rule), large, kind).init, large)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    assert 0.25 < size("float8") / size("float32") < 0.29


@pytest.mark.parametrize("on", ["fsdp 4", pytest.param("fsdp 2 x tensor 2", marks=pytest.mark.variant)])
@pytest.mark.parametrize("kind", ["float8", pytest.param("bfloat16", marks=pytest.mark.variant)])
def test_every_mesh_stores_the_same_bits(on: str, kind: Any) -> None:
    """The mesh splits the rows of most arrays here.

    Lion's momentum needs no sum over a row, so only the rounding could differ.
    """
    optimizer = build_optimizer(spec_of("lion"), model(), kind, "stochastic")
    mesh, first = mesh_from(on), optimizer.init(model())
    placed = [shardings(tree, mesh) for tree in (first, gradients(0))]

    def twice(state: Any, gradient: Any) -> Any:
        for number in range(2):
            state = constrain(update(optimizer, state, gradient, number)[1], mesh)
        return state

    with computing(mesh):
        spread = jax.jit(twice, in_shardings=tuple(placed))(*map(jax.device_put, (first, gradients(0)), placed))
    alone = first
    for number in range(2):
        alone = jax.jit(functools.partial(update, optimizer))(alone, gradients(0), number)[1]
    for left, right in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(np.asarray(left, np.float32), np.asarray(right, np.float32))


@pytest.mark.parametrize(
    ("kind", "rounding", "keeps"), [("bfloat16", None, False), ("bfloat16", "stochastic", True), ("float8", None, True)]
)
def test_a_slow_decay_goes_on_if_moments_are_rounded_stochastically(kind: Any, rounding: Any, keeps: bool) -> None:
    """Without gradients, a momentum with a decay of 0.998 falls to 0.998 ** 200 = 0.67 of its first value."""
    optimizer = build_optimizer(spec_of("lion", beta2=0.998), model(), kind, rounding)
    ones = jax.tree.map(jnp.ones_like, model())
    zeros = jax.tree.map(jnp.zeros_like, model())

    def mean(state: Any) -> float:
        values, scales = (state[1].values, state[1].scales) if isinstance(state[1], Scaled) else (state[1], None)
        array = values.trace.embedding.weight.array.astype(jnp.float32)
        return float(jnp.mean(array if scales is None else array * scales.trace.embedding.weight.array[:, None]))

    @jax.jit
    def many(state: Any) -> Any:
        return jax.lax.scan(
            lambda state, number: (update(optimizer, state, zeros, number)[1], None), state, jnp.arange(1, 201)
        )[0]

    first = update(optimizer, optimizer.init(model()), ones, 0)[1]
    share = mean(many(first)) / mean(first)
    assert (abs(share - 0.998**200) < 0.02) is keeps


def test_a_moment_that_is_not_finite_stays_so() -> None:
    optimizer = build_optimizer(spec_of("lion"), model(), "float8")
    wrong = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), model())
    state = update(optimizer, optimizer.init(model()), wrong, 0)[1]
    change, _ = update(optimizer, state, gradients(0), 1)
    assert all(np.isnan(np.asarray(leaf)).all() for leaf in jax.tree.leaves(change) if leaf.ndim > 2)


def test_stochastic_rounding_without_a_key_is_an_error() -> None:
    optimizer = build_optimizer(spec_of("lion"), model(), "float8")
    with pytest.raises(TypeError, match="need the argument key"):
        optimizer.update(gradients(0), optimizer.init(model()), model(), learning_rate=jnp.float32(1e-3))
