"""A scan over blocks equals a Python loop over them: with inputs and outputs of each block, and with alternating kinds of blocks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis, NamedArray

from halcyon.models.parameters import Parameter, Role, parameter, parameters, roles
from halcyon.models.parts.linear import Linear
from halcyon.models.stack import Pattern, Stack, runs_of
from halcyon_api.spec.remat import Remat

EMBED, BATCH = Axis("embed", 6), Axis("batch", 3)


class Scaled(eqx.Module):
    """An example block: a scale."""

    weight: NamedArray = parameter(Role.NORM)

    def __call__(self, x: NamedArray) -> NamedArray:
        return x * self.weight


class Turned(eqx.Module):
    """Another example block: a linear map and a nonlinearity."""

    linear: Linear

    def __call__(self, x: NamedArray) -> NamedArray:
        return x + hax.tanh(self.linear(x).rename({"out": "embed"}))


def scaled(layers: Axis, seed: int) -> Scaled:
    return Scaled(hax.random.normal(jax.random.key(seed), (layers, EMBED)))


def turned(layers: Axis, seed: int) -> Turned:
    how = {"stacked": (layers,), "std": 0.5, "dtype": jnp.dtype("float32"), "bias": True}
    return Turned(Linear.init((EMBED,), (EMBED.alias("out"),), key=jax.random.key(seed), **how))  # type: ignore[arg-type]


def step(block: Any, x: NamedArray, given: Any) -> tuple[NamedArray, Any]:
    """Apply a block, add its input; the output is the sum of the result."""
    x = block(x) if given is None else block(x) + given
    return x, hax.sum(x).scalar()


def one_of(tree: Any, number: int) -> Any:
    """The block with this number."""
    return jax.tree.map(lambda leaf: leaf["layers", number], tree, is_leaf=lambda leaf: isinstance(leaf, NamedArray))


def looped(stack: Stack[Any], x: NamedArray, inputs: Any) -> tuple[NamedArray, list[Any]]:
    """The stack as a Python loop."""
    kinds = stack.stacked.blocks if isinstance(stack.stacked, Pattern) else (stack.stacked,)
    given = inputs if isinstance(stack.stacked, Pattern) else (inputs,)
    outputs: list[list[Any]] = [[] for _ in kinds]
    for number in range(stack.layers.size):
        for kind, (block, mine) in enumerate(zip(kinds, given or (None,) * len(kinds), strict=True)):
            x, output = step(one_of(block, number), x, None if mine is None else mine[number])
            outputs[kind].append(output)
    return x, [jnp.stack(each) for each in outputs]


def alternating(repetitions: int, remat: Remat = "none") -> Stack[Any]:
    """A pattern of two kinds of blocks, one of them twice in a row."""
    layers = Axis("layers", repetitions)
    return Stack(layers, Pattern((scaled(layers, 0), turned(layers, 1), turned(layers, 2))), remat)


def numbers(repetitions: int, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (repetitions,))


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("with_inputs", [False, True])
@pytest.mark.parametrize("kind", ["one", "pattern"])
def test_a_scan_equals_an_unrolled_loop(kind: str, with_inputs: bool, remat: Remat) -> None:
    layers = Axis("layers", 4)
    stack = Stack(layers, turned(layers, 0), remat) if kind == "one" else alternating(4, remat)
    inputs: Any = numbers(4, 7) if kind == "one" else tuple(numbers(4, seed) for seed in (7, 8, 9))
    given = inputs if with_inputs else None
    x = hax.random.normal(jax.random.key(3), (BATCH, EMBED))

    def scanned(stack: Any, x: NamedArray, given: Any) -> tuple[jax.Array, Any]:
        x, outputs = stack.scan(step, x, given)
        return hax.sum(x * x).scalar(), (x, list(outputs) if kind == "pattern" else [outputs])

    def unrolled(stack: Any, x: NamedArray, given: Any) -> tuple[jax.Array, Any]:
        x, outputs = looped(stack, x, given)
        return hax.sum(x * x).scalar(), (x, outputs)

    found = jax.jit(jax.value_and_grad(scanned, has_aux=True))(stack, x, given)
    expected = jax.jit(jax.value_and_grad(unrolled, has_aux=True))(stack, x, given)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_compilation_does_not_grow_with_the_repetitions_of_a_pattern() -> None:
    def operations(repetitions: int) -> int:
        x = jax.eval_shape(lambda: hax.zeros((BATCH, EMBED)))
        run = jax.jit(jax.grad(lambda stack, x: hax.sum(stack.scan(step, x)[0]).scalar()))
        return run.lower(jax.eval_shape(lambda: alternating(repetitions)), x).as_text().count("stablehlo.")

    assert operations(2) == operations(40)


def test_parameters_of_a_pattern_have_roles_and_axes() -> None:
    layers, out = Axis("layers", 5), EMBED.alias("out")
    found = parameters(alternating(5))
    assert found.stacked.blocks[0].weight == Parameter(Role.NORM, (), (EMBED,), (layers,))
    assert found.stacked.blocks[2].linear.weight == Parameter(Role.MATRIX, (EMBED,), (out,), (layers,))
    assert found.stacked.blocks[2].linear.bias == Parameter(Role.BIAS, (), (out,), (layers,))
    assert roles(alternating(5)).stacked.blocks[1].linear.weight is Role.MATRIX


def test_a_parameter_without_the_axis_of_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a stacked parameter has the axis layers in front, not \('embed',\)"):
        Stack(Axis("layers", 2), Scaled(hax.ones(EMBED))).scan(step, hax.ones((BATCH, EMBED)))


RUNS = {
    "aaaa": [(0, "a", 4)],
    "abababab": [(0, "ab", 4)],
    "sssssfsssssfss": [(0, "sssssf", 2), (12, "s", 2)],
    "aaabbbb": [(0, "a", 3), (3, "b", 4)],
    "aab": [(0, "aab", 1)],
    "a": [(0, "a", 1)],
    "": [],
}


@pytest.mark.parametrize(("kinds", "expected"), RUNS.items())
def test_kinds_are_runs_of_repeated_patterns(kinds: str, expected: list[tuple[int, str, int]]) -> None:
    assert [(run.first, "".join(run.pattern), run.repetitions) for run in runs_of(kinds)] == expected


@pytest.mark.parametrize("kinds", [kinds for kinds in RUNS if kinds] + ["sf" * 200 + "s", "s" * 300, "abcdefghijklmnopqrstuvwxyz"])
def test_runs_are_all_kinds_in_order(kinds: str) -> None:
    runs = runs_of(kinds)
    assert "".join("".join(run.pattern) * run.repetitions for run in runs) == kinds
    assert [run.first for run in runs] == [0, *(run.end for run in runs[:-1])]


def by_kind(kind: str, block: Turned, x: NamedArray) -> NamedArray:
    """A block whose computation depends on its kind."""
    return block(x) * {"s": 1.0, "f": -0.5}[kind]


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("kinds", ["ssss", "ssfssfs"])
def test_a_scan_by_kinds_is_a_loop(kinds: str, remat: Any) -> None:
    layers = Axis("layers", len(kinds))
    stack = Stack(layers, turned(layers, 0), remat)
    x = hax.random.normal(jax.random.key(3), (BATCH, EMBED))

    def scanned(stack: Any, x: NamedArray) -> jax.Array:
        x = stack.scan_kinds(kinds, by_kind, x)
        return hax.sum(x * x).scalar()

    def unrolled(stack: Any, x: NamedArray) -> jax.Array:
        for number, kind in enumerate(kinds):
            x = by_kind(kind, one_of(stack.stacked, number), x)
        return hax.sum(x * x).scalar()

    found, expected = (jax.jit(jax.value_and_grad(function))(stack, x) for function in (scanned, unrolled))
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_compilation_does_not_grow_with_the_repetitions_of_kinds() -> None:
    def operations(repetitions: int) -> int:
        kinds = "ssf" * repetitions + "s"
        layers = Axis("layers", len(kinds))
        x = jax.eval_shape(lambda: hax.zeros((BATCH, EMBED)))
        run = jax.jit(jax.grad(lambda stack, x: hax.sum(stack.scan_kinds(kinds, by_kind, x)).scalar()))
        return run.lower(jax.eval_shape(lambda: Stack(layers, turned(layers, 0))), x).as_text().count("stablehlo.")

    assert operations(2) == operations(20)
