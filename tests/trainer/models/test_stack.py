"""A scan over blocks equals a Python loop over them: with inputs and outputs of each block, and with blocks of several
kinds.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis, NamedArray

from halcyon.models.parameters import Parameter, Role, parameter, parameters
from halcyon.models.parts.linear import Linear
from halcyon.models.stack import Stack, runs_of
from halcyon_api.spec.trainer import Remat
from tests.trainer.models.cases import roles

EMBED, BATCH = Axis("embed", 6), Axis("batch", 3)


class Turned(eqx.Module):
    """An example block: a linear map and a nonlinearity."""

    linear: Linear

    def __call__(self, x: NamedArray) -> NamedArray:
        return x + hax.tanh(self.linear(x).rename({"out": "embed"}))


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


def looped(stack: Stack[Any], x: NamedArray, inputs: Any) -> tuple[NamedArray, jax.Array]:
    """The stack as a Python loop."""
    outputs: list[Any] = []
    for number in range(stack.layers.size):
        x, output = step(one_of(stack.stacked, number), x, None if inputs is None else inputs[number])
        outputs.append(output)
    return x, jnp.stack(outputs)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("with_inputs", [False, True])
def test_a_scan_equals_an_unrolled_loop(with_inputs: bool, remat: Remat) -> None:
    layers = Axis("layers", 4)
    stack = Stack(layers, turned(layers, 0), remat)
    given = jax.random.normal(jax.random.key(7), (4,)) if with_inputs else None
    x = hax.random.normal(jax.random.key(3), (BATCH, EMBED))

    def scanned(stack: Any, x: NamedArray, given: Any) -> tuple[jax.Array, Any]:
        x, outputs = stack.scan(step, x, given)
        return hax.sum(x * x).scalar(), (x, outputs)

    def unrolled(stack: Any, x: NamedArray, given: Any) -> tuple[jax.Array, Any]:
        x, outputs = looped(stack, x, given)
        return hax.sum(x * x).scalar(), (x, outputs)

    found = jax.jit(jax.value_and_grad(scanned, has_aux=True))(stack, x, given)
    expected = jax.jit(jax.value_and_grad(unrolled, has_aux=True))(stack, x, given)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_parameters_of_a_stack_have_roles_and_axes() -> None:
    layers, out = Axis("layers", 5), EMBED.alias("out")
    stack = Stack(layers, turned(layers, 0))
    found = parameters(stack)
    assert found.stacked.linear.weight == Parameter(Role.MATRIX, (EMBED,), (out,), (layers,))
    assert found.stacked.linear.bias == Parameter(Role.BIAS, (), (out,), (layers,))
    assert roles(stack).stacked.linear.weight is Role.MATRIX


class Scaled(eqx.Module):
    """A block with one scale."""

    weight: NamedArray = parameter(Role.NORM)


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


@pytest.mark.parametrize(
    "kinds", [kinds for kinds in RUNS if kinds] + ["sf" * 200 + "s", "s" * 300, "abcdefghijklmnopqrstuvwxyz"]
)
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
