"""Stacks of hidden matrices: each device computes its part of a stack, with the same results."""

from __future__ import annotations

import math
import re
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis

from halcyon.models.parameters import Parameter, Role, parameters
from halcyon.optim.hidden import orthogonalize
from halcyon.optim.matrices import Kind, Matrices, by_part, hidden
from halcyon.optim.rules.soap import first_bases
from halcyon.parallel.axes import shardings
from halcyon.parallel.partition import computing
from tests.trainer.models.cases import FAMILIES, shapes
from tests.trainer.support.meshes import mesh_from

LAYERS, EXPERTS, EMBED, HEADS, SIZE, MLP = (
    Axis("layers", 3),
    Axis("experts", 2),
    Axis("embed", 16),
    Axis("heads", 4),
    Axis("head_size", 6),
    Axis("mlp", 24),
)
DECLARED = {
    "query": Parameter(Role.MATRIX, (EMBED,), (HEADS, SIZE), (LAYERS,)),
    "output": Parameter(Role.MATRIX, (HEADS, SIZE), (EMBED,), (LAYERS,)),
    "experts": Parameter(Role.EXPERT, (EMBED,), (MLP,), (LAYERS, EXPERTS)),
}
"""All are 16 x 24 or its transpose: one stack of 12."""
ORDER = {
    "query": (LAYERS, EMBED, HEADS, SIZE),
    "output": (EMBED, LAYERS, HEADS, SIZE),
    "experts": (LAYERS, EXPERTS, EMBED, MLP),
}


def arrays() -> dict[str, Any]:
    keys = iter(jax.random.split(jax.random.key(0), len(ORDER)))
    return {name: hax.random.normal(next(keys), axes) for name, axes in ORDER.items()}


def one_by_one(tree: dict[str, Any]) -> dict[str, Any]:
    """Each matrix alone."""
    found = {}
    for name, x in tree.items():
        declared = DECLARED[name]
        canonical = x.rearrange((*declared.stacked, *declared.inputs, *declared.outputs))
        rows = math.prod(axis.size for axis in declared.inputs)
        matrices = canonical.array.reshape(-1, rows, 16 * 24 // rows)
        results = np.concatenate([np.asarray(orthogonalize(matrix[None], "polarExpress")) for matrix in matrices])
        found[name] = hax.named(jnp.asarray(results).reshape(canonical.array.shape), canonical.axes).rearrange(x.axes)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("on", ["fsdp 4", pytest.param("fsdp 2 x tensor 2", marks=pytest.mark.variant), "fsdp 8"])
def test_a_stack_over_devices_equals_its_matrices_one_by_one(on: str) -> None:
    matrices, tree, mesh = Matrices(DECLARED), arrays(), mesh_from(on)
    placed = shardings(tree, mesh)

    def compute(tree: Any) -> Any:
        return matrices.compute_each(lambda stack: orthogonalize(stack, "polarExpress"), tree)

    with computing(mesh):
        compiled = jax.jit(compute, in_shardings=(placed,), out_shardings=placed).lower(tree).compile()
    found, expected = compiled(jax.device_put(tree, placed)), one_by_one(tree)
    for name, x in expected.items():
        assert found[name].axes == x.axes
        np.testing.assert_allclose(found[name].array, x.array, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.variant
def test_no_device_gathers_a_stack() -> None:
    layers, mesh = LAYERS.resize(8), mesh_from("fsdp 4")
    declared = {
        "up": Parameter(Role.MATRIX, (EMBED,), (MLP,), (layers,)),
        "down": Parameter(Role.MATRIX, (MLP,), (EMBED,), (layers,)),
    }
    tree = {"up": hax.zeros((layers, EMBED, MLP)), "down": hax.zeros((layers, MLP, EMBED))}
    placed = shardings(tree, mesh)

    def compute(tree: Any) -> Any:
        return Matrices(declared).compute_each(lambda stack: stack * 2, tree)

    with computing(mesh):
        text = jax.jit(compute, in_shardings=(placed,), out_shardings=placed).lower(tree).compile().as_text()
    assert set(re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", text)) == {
        "all-to-all"
    }


def test_a_stack_is_filled_up_to_the_number_of_parts() -> None:
    mesh = mesh_from("fsdp 4")

    def compute(stack: jax.Array, factor: jax.Array) -> Any:
        return by_part(lambda stack, factor: (stack * factor + jnp.arange(2.0),), [stack], [factor])[0]

    stack = jnp.arange(10.0).reshape(5, 2)
    with computing(mesh):
        found = jax.jit(compute)(stack, jnp.float32(3))
    np.testing.assert_array_equal(found, stack * 3 + jnp.arange(2.0))


def test_factors_have_the_axes_of_their_side() -> None:
    bases = jax.eval_shape(lambda: first_bases(Matrices(DECLARED)))
    assert [axis.name for axis in bases.left["query"].axes] == ["layers", "embed", "flat_inputs"]
    assert [axis.name for axis in bases.right["query"].axes] == ["layers", "heads", "head_size", "flat_outputs"]
    assert bases.right["query"].array.shape == (3, 4, 6, 24)
    specs = shardings(bases, mesh_from("fsdp 2 x tensor 2"))
    assert specs.left["query"].array.spec[1] == "fsdp"
    assert specs.right["query"].array.spec[1] == "tensor"


def test_a_side_that_is_too_large_has_no_factor() -> None:
    large = Parameter(Role.MATRIX, (EMBED,), (Axis("mlp", 10_001),), (LAYERS,))
    bases = jax.eval_shape(lambda: first_bases(Matrices({"up": large})))
    assert bases.left["up"].array.shape == (3, 16, 16)
    assert bases.right["up"].array.shape == (3, 1)
    assert (
        Matrices({"up": large}).new(Kind.RIGHT, lambda form: jnp.eye(form.shape(Kind.RIGHT)[-1]))["up"].array.sum() == 3
    )


def test_hidden_matrices_are_the_linear_maps_between_features_of_every_family() -> None:
    for family in ("llama", "gpt2", "qwen3-moe", "deepseek-v3", "qwen3-next"):
        declared = parameters(shapes(FAMILIES[family]))
        chosen = zip(jax.tree.leaves(declared), jax.tree.leaves(hidden(declared)), strict=True)
        roles = {one.role for one, flag in chosen if flag}
        assert Role.MATRIX in roles
        assert roles <= {Role.MATRIX, Role.EXPERT}
