"""Products of 8 bits and less: the error of one rounding, scales that depend on nothing else, and gradients in all
roles.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, get_args

import haliax as hax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from haliax import Axis

from halcyon.models.model import with_products
from halcyon.models.parameters import Role
from halcyon.models.parts.experts import Experts, expert_outer, expert_product
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.products import Kind, is_narrow, narrow_dot, of_head, rounded
from halcyon.models.parts.products import Role as ProductRole
from halcyon.models.parts.weight import apply_weight, contract
from halcyon_api.hardware.kinds import NarrowType
from halcyon_api.spec.narrow_products import NarrowProducts, NarrowProductsSpec
from tests.trainer.models.cases import FAMILIES, LLAMA, batch, changed, loss_and_gradient, make
from tests.trainer.models.test_precision import errors, off

KINDS: tuple[NarrowType, ...] = get_args(NarrowType)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SCALED = pytest.mark.parametrize("kind", ["float8", "int8"])
ROUNDING = {"float8": 0.05, "int8": 0.015, "mxfp8": 0.05, "nvfp4": 0.2}
"""Relative error of a product of normally distributed factors: both are rounded, by up to 2**-4 of a value, 1/254 of
the greatest, or in nvfp4 by up to 2**-2 of a value."""

ALLOWED = {"float8": 0.55, "int8": 0.15, "mxfp8": 0.55}
"""Relative error of a gradient of a small model, where few rounded values are in a sum."""


FURTHER = [
    ("llama", "float8"),
    ("gpt2", "int8"),
    ("deepseek-v3", "float8"),
    ("deepseek-v3", "int8"),
    ("llama-64", "mxfp8"),
]
"""Further families and kinds of narrow products."""
SPECS = FAMILIES | {
    "llama-64": changed(LLAMA, num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_attention_heads=4)
}
"""Blocks of 32 values divide the features of the last one."""


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def choices(kind: NarrowType, **fields: Any) -> NarrowProducts:
    return NarrowProducts.of(kind, NarrowProductsSpec(**fields))


@pytest.mark.parametrize("kind", ["e4m3", "e5m2", "int8"])
def test_rounded_values_are_within_half_a_step(kind: Kind) -> None:
    x = numbers(40, 64) * np.logspace(-20, 20, 40, dtype=np.float32)[:, None]
    found, scale = rounded(kind, jnp.asarray(x), (1,))
    value = np.asarray(found, np.float64) * np.asarray(scale, np.float64)
    greatest = np.abs(x).max(1, keepdims=True)
    assert found.dtype.itemsize == 1
    if kind == "int8":
        assert (np.abs(value - x) <= greatest / 253).all()
    else:
        step, least = (16, 2.0**-16) if kind == "e4m3" else (8, 2.0**-30)
        assert (np.abs(value - x) <= np.maximum(np.abs(x) / step, greatest * least)).all()


def test_float8_values_are_those_of_another_implementation_of_the_type() -> None:
    x = numbers(3, 500)
    for kind, theirs in (("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)):
        found, scale = rounded(kind, jnp.asarray(x), (1,))
        assert (np.log2(np.asarray(scale)) % 1 == 0).all()
        np.testing.assert_array_equal(np.asarray(found), (x / np.asarray(scale)).astype(theirs))


SUMS = [
    ("bti,io->bto", ((2, 5, 64), (64, 7))),
    ("bto,io->bti", ((2, 5, 64), (7, 64))),
    ("bthd,hde->bte", ((2, 5, 4, 16), (4, 16, 7))),
    ("bti,bto->io", ((4, 16, 5), (4, 16, 7))),
]


def dot(products: NarrowProducts, role: ProductRole, subscripts: str, x: np.ndarray, y: np.ndarray) -> jax.Array:
    """An einsum by `narrow_dot`."""
    (left, right), out = subscripts.split("->")[0].split(","), subscripts.split("->")[1]
    axes = {
        name: Axis(name, size)
        for names, shape in ((left, x.shape), (right, y.shape))
        for name, size in zip(names, shape, strict=True)
    }
    named = [hax.named(jnp.asarray(array), [axes[name] for name in names]) for names, array in ((left, x), (right, y))]
    over = [axes[name] for name in left if name in right]
    return narrow_dot(products, role, *named, over, into=jnp.float32, order=tuple(axes[name] for name in out)).array


@pytest.mark.parametrize(
    "products",
    [
        *map(choices, KINDS),
        *(choices(kind, scales="tensor") for kind in ("float8", "int8")),
        choices("float8", gradients="e5m2", fastAccumulation="always"),
    ],
    ids=lambda one: "-".join(map(str, dataclasses.astuple(one))),
)
@pytest.mark.parametrize(("subscripts", "shapes"), SUMS)
def test_a_product_has_the_error_of_rounding_alone(
    products: NarrowProducts, subscripts: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    x, y = (numbers(*shape, seed=seed) for seed, shape in enumerate(shapes))
    exact = np.einsum(subscripts, x.astype(np.float64), y)
    by_tensor = 1.2 if products.scales == "tensor" else 1.0
    for role in get_args(ProductRole):
        if is_narrow(products, role) or role == "forward":
            coarse = 2 if products.gradients == "e5m2" and role != "forward" else 1
            assert (
                1e-4 < off(dot(products, role, subscripts, x, y), exact) < coarse * by_tensor * ROUNDING[products.kind]
            )


@SCALED
def test_rounded_factors_are_multiplied_exactly(kind: NarrowType) -> None:
    x, y = numbers(6, 64), numbers(64, 7, seed=1)
    factor: Kind = "int8" if kind == "int8" else "e4m3"
    pairs = (rounded(factor, jnp.asarray(x), (1,)), rounded(factor, jnp.asarray(y), (0,)))
    left, right = (np.asarray(found, np.float64) * np.asarray(scale, np.float64) for found, scale in pairs)
    np.testing.assert_allclose(dot(choices(kind), "forward", "ri,io->ro", x, y), left @ right, rtol=1e-5, atol=1e-5)


def test_gradients_are_the_factors_with_the_other_type() -> None:
    """With e5m2, the gradient is rounded to it, and the weight or the activations to e4m3."""
    x, y = numbers(6, 64), numbers(64, 7, seed=1)
    for role, kinds in (("inputs", ("e5m2", "e4m3")), ("parameters", ("e4m3", "e5m2"))):
        pairs = [
            rounded(kind, jnp.asarray(array), (at,)) for kind, array, at in zip(kinds, (x, y), (1, 0), strict=True)
        ]
        left, right = (np.asarray(found, np.float64) * np.asarray(scale, np.float64) for found, scale in pairs)
        np.testing.assert_allclose(
            dot(choices("float8", gradients="e5m2"), role, "ri,io->ro", x, y), left @ right, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["float8", "int8", "mxfp8"])
def test_a_token_has_the_same_product_in_any_batch(kind: NarrowType) -> None:
    x, y = numbers(8, 64) * np.logspace(-3, 3, 8, dtype=np.float32)[:, None], numbers(64, 7, seed=1)
    products = choices(kind)
    np.testing.assert_array_equal(
        dot(products, "forward", "ri,io->ro", x, y)[2:4], dot(products, "forward", "ri,io->ro", x[2:4], y)
    )


@pytest.mark.parametrize("kind", ["float8", "int8", "mxfp8"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stay_visible(kind: NarrowType, wrong: float) -> None:
    x, y = numbers(3, 64), numbers(64, 7, seed=1)
    x[1, 5] = wrong
    found = np.asarray(dot(choices(kind), "forward", "ri,io->ro", x, y))
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[[0, 2]]).all()


@EVERY_KIND
def test_a_product_of_zeros_is_zero(kind: NarrowType) -> None:
    assert (
        dot(choices(kind), "forward", "ri,io->ro", np.zeros((3, 32), np.float32), np.zeros((32, 2), np.float32)) == 0
    ).all()


@pytest.mark.parametrize("kind", ["mxfp8", "nvfp4"])
def test_a_sum_that_blocks_do_not_divide_is_not_rounded(kind: NarrowType) -> None:
    x, y = numbers(6, 40), numbers(40, 7, seed=1)
    np.testing.assert_allclose(dot(choices(kind), "forward", "ri,io->ro", x, y), x @ y, rtol=1e-5, atol=1e-5)


@EVERY_KIND
@pytest.mark.parametrize("parameters", [True, False])
def test_the_gradients_of_a_linear_map_are_narrow_where_the_run_says_so(kind: NarrowType, parameters: bool) -> None:
    rows, inputs, outputs = hax.make_axes(rows=4096, inputs=64, outputs=32)
    x = hax.named(jnp.asarray(numbers(4096, 64) + 0.5, jnp.bfloat16), (rows, inputs))
    weight = hax.named(jnp.asarray(numbers(64, 32, seed=1)), (inputs, outputs))
    cotangent = hax.named(jnp.asarray(numbers(4096, 32, seed=2) + 0.5, jnp.bfloat16), (rows, outputs))
    products = choices(kind, parameterGradients=parameters and kind != "nvfp4")
    by_x, by_weight = jax.vjp(lambda x, weight: apply_weight(x, weight, (inputs,), products), x, weight)[1](cotangent)
    exact = np.einsum("ri,ro->io", np.asarray(x.array, np.float64), np.asarray(cotangent.array, np.float64))
    assert (by_x.dtype, by_weight.dtype) == (jnp.bfloat16, jnp.float32)
    error_of_weight = off(by_weight.array, exact)
    assert 1e-4 < error_of_weight < ROUNDING[kind] if products.parameter_gradients else error_of_weight < 1e-5
    error_of_x = off(by_x.array.astype(jnp.float32), contract(cotangent, weight, (outputs,), into=jnp.float32).array)
    assert 5e-3 < error_of_x < ROUNDING[kind] if is_narrow(products, "inputs") else error_of_x < 5e-3


def test_the_gradient_of_a_softmax_keeps_its_small_values() -> None:
    """With 200,000 equal probabilities, e4m3 rounds the gradients of all words but the target's to zero."""
    by_logits = np.full((4, 200_000), 5e-6, np.float32)
    by_logits[:, 7] = -1.0
    head, ones = of_head(choices("float8")), np.ones((200_000, 2), np.float32)
    assert head is not None
    assert np.abs(np.asarray(dot(head, "inputs", "tv,ve->te", by_logits, ones))).max() < 0.13  # they add up to zero
    assert np.asarray(dot(choices("float8"), "inputs", "tv,ve->te", by_logits, ones)).max() == -1


@pytest.mark.parametrize(
    ("kind", "scales", "implementation"),
    list(itertools.product(("float8", "int8"), ("row", "tensor"), ("blocks", "kernel"))),
)
def test_experts_have_the_error_of_rounding_alone(
    kind: NarrowType, scales: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halcyon.models.parts.grouped_product._best", lambda target: implementation)
    products = choices(kind, scales=scales, parameterGradients=True)
    rows, others, matrices = numbers(96, 64), numbers(96, 32, seed=1), numbers(4, 64, 32, seed=2)
    sizes = [50, 0, 30, 6]  # ten rows have no group
    group = np.repeat(np.arange(4), sizes)
    exact = np.zeros((96, 32))
    exact[:86] = np.einsum("ri,rio->ro", rows[:86], matrices[group].astype(np.float64))
    found = expert_product(products, jnp.asarray(rows), jnp.asarray(matrices), jnp.asarray(sizes))
    assert 1e-3 < off(found, exact) < 1.2 * ROUNDING[kind]
    assert (np.asarray(found[86:]) == 0).all()
    back = np.zeros((96, 64))
    back[:86] = np.einsum("ro,rio->ri", others[:86], matrices[group].astype(np.float64))
    turned = expert_product(products, jnp.asarray(others), jnp.asarray(matrices), jnp.asarray(sizes), transposed=True)
    assert 1e-3 < off(turned, back) < 1.2 * ROUNDING[kind]
    sums = np.stack([rows[:86][group == at].T.astype(np.float64) @ others[:86][group == at] for at in range(4)])
    outer = expert_outer(products, jnp.asarray(rows), jnp.asarray(others), jnp.asarray(sizes))
    assert outer.dtype == jnp.float32
    assert 1e-3 < off(outer, sums) < 1.2 * ROUNDING[kind]
    assert (np.asarray(outer[1]) == 0).all()


def test_linear_maps_experts_and_the_head_change_and_nothing_else() -> None:
    model = make(FAMILIES["mixtral"])
    narrow = with_products(model, choices("float8"))
    parts = [node for node in jax.tree.leaves(narrow, is_leaf=_is_map) if _is_map(node)]
    found = {(one.role if isinstance(one, Linear) else Role.EXPERT, one.products) for one in parts}
    assert found == {(Role.MATRIX, choices("float8")), (Role.EXPERT, choices("float8")), (Role.HEAD, None)}
    assert narrow.softmax.products == choices("float8", gradients="e5m2")
    assert with_products(model, choices("float8", head=False)).softmax.products is None
    assert with_products(model, None) is model
    assert all(mine is theirs for mine, theirs in zip(jax.tree.leaves(narrow), jax.tree.leaves(model), strict=True))


def _is_map(node: Any) -> bool:
    return isinstance(node, Linear | Experts)


@pytest.mark.parametrize(
    "given", [{"kind": "int8"}, {"kind": "nvfp4"}, {"kind": "float8"}, {"kind": "float8", "scales": "tensor"}], ids=str
)
def test_defaults_depend_on_the_type(given: dict[str, Any]) -> None:
    found = choices(**given)
    float8 = given["kind"] == "float8"
    assert (found.parameter_gradients, found.head, found.fast_accumulation) == (float8, float8, "never")
    assert found.gradients == ("e5m2" if "scales" in given else "e4m3")


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "int8"), ("gpt2", "float8"), *(pytest.param(*case, marks=pytest.mark.variant) for case in FURTHER)],
)
def test_a_model_with_narrow_products_has_about_the_same_gradient(family: str, kind: NarrowType) -> None:
    model, arrays = make(SPECS[family]), batch()
    (total, _), wide = _gradients(model, *arrays)
    wide_loss = float(total)
    (loss, _), narrow = _gradients(with_products(model, choices(kind)), *arrays)
    assert float(loss) == pytest.approx(wide_loss, rel=0.05)
    assert float(loss) != wide_loss
    for path, error in errors(narrow, wide).items():
        if "router" not in path and "correction" not in path:  # a token may choose another expert
            assert error < ALLOWED[kind] * (2 if family == "deepseek-v3" else 1), path


_gradients: Any = jax.jit(loss_and_gradient, compiler_options={"xla_backend_optimization_level": "0"})


def test_an_axis_of_any_name_is_summed() -> None:
    one = Linear.init(
        (Axis("a", 8),),
        (Axis("b", 3), Axis("c", 2)),
        std=1.0,
        dtype=jnp.dtype("float32"),
        bias=True,
        key=jax.random.key(0),
    )
    x = hax.named(jnp.asarray(numbers(5, 8)), ("rows", "a"))
    assert off(with_products(one, choices("int8"))(x).array, one(x).array) < ROUNDING["int8"]
