"""Products of 8 bits: the error of one rounding, scales that depend on nothing else, and gradients of parameters that stay wide."""

from __future__ import annotations

from typing import Any, get_args

import haliax as hax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from haliax import Axis

from halcyon.models.parameters import Role
from halcyon.models.parts.linear import Linear, apply_weight, contract, with_products
from halcyon.models.parts.products import narrow_product, rounded
from halcyon_api.hardware import EightBit
from tests.trainer.models.cases import FAMILIES, batch, loss_and_gradient, make
from tests.trainer.models.test_precision import errors, off

KINDS: tuple[EightBit, ...] = get_args(EightBit)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ROUNDING = {"float8": 0.05, "int8": 0.015}
"""Relative error of a product of normally distributed factors: both are rounded, by up to 2**-4 of a value or 1/254 of the greatest."""

ALLOWED = {"float8": 0.55, "int8": 0.15}
"""Relative error of a gradient of a model with 24 features, where few rounded values are in a sum."""


FURTHER = [("llama", "float8"), ("gpt2", "int8"), ("deepseek-v3", "float8"), ("deepseek-v3", "int8")]
"""Further families and kinds of narrow products."""


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@EVERY_KIND
def test_rounded_values_are_within_half_a_step(kind: EightBit) -> None:
    x = numbers(40, 64) * np.logspace(-20, 20, 40, dtype=np.float32)[:, None]
    found, scale = rounded(kind, jnp.asarray(x), (1,))
    value = np.asarray(found, np.float64) * np.asarray(scale, np.float64)
    greatest = np.abs(x).max(1, keepdims=True)
    assert found.dtype.itemsize == 1
    if kind == "int8":
        assert (np.abs(value - x) <= greatest / 253).all()
    else:
        assert (np.abs(value - x) <= np.maximum(np.abs(x) / 16, greatest * 2.0**-16)).all()


def test_float8_values_are_those_of_another_implementation_of_the_type() -> None:
    x = numbers(3, 500)
    found, scale = rounded("float8", jnp.asarray(x), (1,))
    assert (np.log2(np.asarray(scale)) % 1 == 0).all()
    np.testing.assert_array_equal(np.asarray(found), (x / np.asarray(scale)).astype(ml_dtypes.float8_e4m3fn))


@EVERY_KIND
@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("bti,io->bto", ((2, 5, 64), (64, 7))),
        ("bto,io->bti", ((2, 5, 64), (7, 64))),
        ("bthd,hde->bte", ((2, 5, 4, 16), (4, 16, 7))),
        ("bti,bio->bto", ((3, 5, 64), (3, 64, 7))),
    ],
)
def test_a_product_has_the_error_of_rounding_alone(kind: EightBit, subscripts: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    x, y = (numbers(*shape, seed=seed) for seed, shape in enumerate(shapes))
    found = jnp.einsum(subscripts, x, y, _dot_general=narrow_product(kind))
    assert off(found, np.einsum(subscripts, x.astype(np.float64), y)) < ROUNDING[kind]


@EVERY_KIND
def test_rounded_factors_are_multiplied_exactly(kind: EightBit) -> None:
    x, y = numbers(6, 64), numbers(64, 7, seed=1)
    product = jax.jit(lambda x, y: narrow_product(kind)(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))
    pairs = (rounded(kind, jnp.asarray(x), (1,)), rounded(kind, jnp.asarray(y), (0,)))
    left, right = (np.asarray(found, np.float64) * np.asarray(scale, np.float64) for found, scale in pairs)
    np.testing.assert_allclose(product(x, y), left @ right, rtol=1e-5, atol=1e-5)


@EVERY_KIND
def test_a_token_has_the_same_product_in_any_batch(kind: EightBit) -> None:
    x, y = numbers(8, 64) * np.logspace(-3, 3, 8, dtype=np.float32)[:, None], numbers(64, 7, seed=1)
    product = jax.jit(lambda x: narrow_product(kind)(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))
    np.testing.assert_array_equal(product(x)[2:4], product(x[2:4]))


@EVERY_KIND
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stay_visible(kind: EightBit, wrong: float) -> None:
    x, y = numbers(3, 64), numbers(64, 7, seed=1)
    x[1, 5] = wrong
    found = np.asarray(narrow_product(kind)(jnp.asarray(x), jnp.asarray(y), (((1,), (0,)), ((), ()))))
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()


@EVERY_KIND
def test_a_product_of_zeros_is_zero(kind: EightBit) -> None:
    assert (narrow_product(kind)(jnp.zeros((3, 8)), jnp.zeros((8, 2)), (((1,), (0,)), ((), ()))) == 0).all()


@EVERY_KIND
def test_only_the_gradient_of_a_weight_keeps_the_compute_type(kind: EightBit) -> None:
    rows, inputs, outputs = hax.make_axes(rows=4096, inputs=64, outputs=32)
    x = hax.named(jnp.asarray(numbers(4096, 64) + 0.5, jnp.bfloat16), (rows, inputs))
    weight = hax.named(jnp.asarray(numbers(64, 32, seed=1)), (inputs, outputs))
    cotangent = hax.named(jnp.asarray(numbers(4096, 32, seed=2) + 0.5, jnp.bfloat16), (rows, outputs))
    by_x, by_weight = jax.vjp(lambda x, weight: apply_weight(x, weight, (inputs,), kind), x, weight)[1](cotangent)
    exact = np.einsum("ri,ro->io", np.asarray(x.array, np.float64), np.asarray(cotangent.array, np.float64))
    assert (by_x.dtype, by_weight.dtype) == (jnp.bfloat16, jnp.float32)
    assert off(by_weight.array, exact) < 1e-5
    assert 1e-3 < off(by_x.array.astype(jnp.float32), contract(cotangent, weight, outputs, into=jnp.float32).array) < ROUNDING[kind]


def test_linear_maps_between_features_change_and_nothing_else() -> None:
    model = make(FAMILIES["mixtral"])
    narrow = with_products(model, "int8")
    maps = [node for node in jax.tree.leaves(narrow, is_leaf=lambda node: isinstance(node, Linear)) if isinstance(node, Linear)]
    assert {(one.role, one.products) for one in maps} == {(Role.MATRIX, "int8"), (Role.HEAD, None)}
    assert with_products(model, None) is model
    assert all(mine is theirs for mine, theirs in zip(jax.tree.leaves(narrow), jax.tree.leaves(model), strict=True))


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "int8"), ("gpt2", "float8"), *(pytest.param(*case, marks=pytest.mark.variant) for case in FURTHER)]
)
def test_a_model_with_narrow_products_has_about_the_same_gradient(family: str, kind: EightBit) -> None:
    model, arrays = make(FAMILIES[family]), batch()
    (total, _), wide = _gradients(model, *arrays)
    wide_loss = float(total)
    (loss, _), narrow = _gradients(with_products(model, kind), *arrays)
    assert float(loss) == pytest.approx(wide_loss, rel=0.05)
    assert float(loss) != wide_loss
    for path, error in errors(narrow, wide).items():
        if "router" not in path and "correction" not in path:  # a token may choose another expert
            assert error < ALLOWED[kind] * (2 if family == "deepseek-v3" else 1), path


_gradients: Any = jax.jit(loss_and_gradient, compiler_options={"xla_backend_optimization_level": "0"})


def test_an_axis_of_any_name_is_summed() -> None:
    one = Linear.init((Axis("a", 8),), (Axis("b", 3), Axis("c", 2)), std=1.0, dtype=jnp.dtype("float32"), bias=True, key=jax.random.key(0))
    x = hax.named(jnp.asarray(numbers(5, 8)), ("rows", "a"))
    assert off(with_products(one, "int8")(x).array, one(x).array) < ROUNDING["int8"]
