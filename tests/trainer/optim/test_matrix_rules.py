"""The rules for hidden matrices, compared with the papers' algorithms in NumPy, one matrix at a time, over 20 steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from halcyon.models.axes import is_named
from halcyon.models.parameters import Role, parameters
from halcyon.optim import build_optimizer
from halcyon.optim.hidden import orthogonalize
from halcyon.optim.rules.kron import random_like
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.rules import MatricesSpec
from tests.trainer.models.cases import make
from tests.trainer.models.reference import named_leaves
from tests.trainer.optim import matrix_references as references

STEPS = 20
RATE, DECAY = 0.02, 0.3
SIZES: Any = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
WIDE = LlamaSpec(**SIZES, intermediate_size=12, num_key_value_heads=1)
SQUARE = LlamaSpec(**SIZES, intermediate_size=8)
"""All hidden matrices are square.

Eigenvectors of the larger side of others are not unique as long as few gradients are known.
"""

CASES: dict[str, tuple[ModelSection, dict[str, Any], Any]] = {
    "muon": (WIDE, {"muon": {}}, references.Muon),
    "muon-plain": (
        WIDE,
        {
            "muon": {"nesterov": False},
            "matrices": {
                "coefficients": "quintic",
                "scaling": "spectral",
                "cautious": True,
                "iterations": 4,
                "others": {"learningRate": 0.5},
            },
        },
        references.Muon,
    ),
    "normuon": (WIDE, {"normuon": {}, "matrices": {"cautious": True}}, references.NorMuon),
    "muonH": (WIDE, {"muonH": {}, "matrices": {"coefficients": "quintic"}}, references.MuonH),
    "soap": (SQUARE, {"soap": {"everySteps": 3}}, references.Soap),
    "soapMuon": (SQUARE, {"soapMuon": {"everySteps": 2}}, references.SoapMuon),
    "kron": (WIDE, {"kron": {}}, references.Kron),
    "scion": (WIDE, {"scion": {}}, references.Scion),
    "scion-free": (WIDE, {"scion": {"constrained": False}}, references.Scion),
}


def optimizer_of(rule: dict[str, Any], **others: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate({"weightDecay": DECAY, "maxGradientNorm": 0.0, **rule, **others})


def gradients_of(model: Any, steps: int = STEPS) -> list[Any]:
    """Random gradients with a mean, so that momentum and preconditioners have something to find."""
    noise, structure = np.random.default_rng(0), jax.tree.structure(model)
    means = [noise.standard_normal(leaf.shape) for leaf in jax.tree.leaves(model)]
    return [
        jax.tree.unflatten(
            structure, [(mean + 0.5 * noise.standard_normal(mean.shape)).astype(np.float32) for mean in means]
        )
        for _ in range(steps)
    ]


def is_hidden(declared: Any) -> bool:
    return declared.role is Role.MATRIX


class Flat:
    """One parameter as a list of matrices [inputs, outputs], or of arrays of any form if it is no hidden matrix."""

    def __init__(self, named: Any, declared: Any) -> None:
        self.names = named.axis_names
        self.order = [axis.name for part in (declared.stacked, declared.inputs, declared.outputs) for axis in part]
        self.sizes = [named.resolve_axis(name).size for name in self.order]
        self.count = math.prod(axis.size for axis in declared.stacked)
        self.inputs = math.prod(axis.size for axis in declared.inputs)

    def matrices(self, array: Any) -> Any:
        turned = np.transpose(np.asarray(array, np.float64), [self.names.index(name) for name in self.order])
        return turned.reshape(self.count, self.inputs, -1)

    def array(self, matrices: Any) -> Any:
        return np.transpose(np.reshape(matrices, self.sizes), [self.order.index(name) for name in self.names])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("muon", "soapMuon", "kron") else pytest.mark.variant) for name in CASES],
)
def test_twenty_steps_are_those_of_the_paper(name: str, measured: Callable[..., None]) -> None:
    family, rule, reference = CASES[name]
    spec = optimizer_of(rule)
    model = make(family)
    optimizer = build_optimizer(spec, model)
    gradients = gradients_of(model)

    @jax.jit
    def update(model: Any, state: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        changes, state = optimizer.update(gradient, state, model, learning_rate=jnp.float32(RATE), key=key)
        return optax.apply_updates(model, changes), state

    declared = dict(zip(named_leaves(model), jax.tree.leaves(parameters(model)), strict=True))
    flat = {path: Flat(leaf, declared[path]) for path, leaf in named_leaves(model).items()}
    expected = {path: flat[path].matrices(leaf.array) for path, leaf in named_leaves(model).items()}
    hidden = {path for path, one in declared.items() if is_hidden(one)}
    width, shared = SIZES["hidden_size"], spec.matrices or MatricesSpec()

    def decay_of(path: str) -> float:
        return DECAY if declared[path].role in (Role.MATRIX, Role.HEAD) else 0.0

    def reference_of(path: str) -> Any:
        if reference is references.Scion:
            outer = declared[path].role in (Role.EMBEDDING, Role.HEAD)
            norm, decay = "spectral" if path in hidden else "sign" if outer else "rms", decay_of(path)
            return references.Scion(spec.value, shared, norm, 1.0 if name == "scion" else decay)
        return reference(spec.value, shared) if path in hidden else references.AdamW(0.9, 0.95, 1e-8)

    rules = {path: [reference_of(path) for _ in range(flat[path].count)] for path in flat}
    ours, state = model, jax.jit(optimizer.init)(model)
    for number, gradient in enumerate(gradients):
        key = jax.random.key(number)
        ours, state = update(ours, state, gradient, key)
        noise = noise_of(model, hidden, key) if name == "kron" else {}
        for path, leaf in named_leaves(gradient).items():
            for index, one in enumerate(flat[path].matrices(leaf.array)):
                further = (flat[path].matrices(noise[path])[index],) if path in noise else ()
                decay_or_width = width if reference is references.Scion else decay_of(path)
                rate = RATE if path in hidden else RATE * shared.others.learning_rate
                expected[path][index] = rules[path][index].step(
                    expected[path][index], one, rate, decay_or_width, *further
                )
    largest = 0.0
    for path, leaf in named_leaves(ours).items():
        largest = max(largest, float(np.abs(flat[path].matrices(leaf.array) - expected[path]).max()))
        moved = np.abs(expected[path] - flat[path].matrices(named_leaves(model)[path].array)).max()
        assert moved > 1e-3, path
        np.testing.assert_allclose(flat[path].matrices(leaf.array), expected[path], atol=2e-3 * moved, err_msg=path)
    measured("rule paper", name, largest)


def noise_of(model: Any, hidden: set[str], key: Any) -> dict[str, Any]:
    """The random numbers of Kron for each hidden matrix."""
    paths, leaves = list(named_leaves(model)), jax.tree.leaves(model, is_leaf=is_named)
    chosen = [leaf if path in hidden else None for path, leaf in zip(paths, leaves, strict=True)]
    drawn = jax.tree.leaves(random_like(key, chosen), is_leaf=is_named)
    return dict(zip([path for path in paths if path in hidden], [leaf.array for leaf in drawn], strict=True))


@pytest.mark.parametrize(
    ("name", "iterations", "least", "most"), [("quintic", 5, 0.65, 1.25), ("polarExpress", 8, 0.999, 1.001)]
)
def test_singular_values_end_near_1(name: Any, iterations: int, least: float, most: float) -> None:
    noise = np.random.default_rng(0)
    left, right = (np.linalg.qr(noise.standard_normal((size, size)))[0] for size in (12, 30))
    values = np.geomspace(0.01, 1.0, 12)
    stack = np.stack([left @ (values[:, None] * right[:12]), 1e-6 * left @ (values[:, None] * right[:12])]).astype(
        np.float32
    )
    for x in (stack, stack.mT):
        found = np.linalg.svd(orthogonalize(jnp.asarray(x), name, iterations), compute_uv=False)
        assert least < found.min() < found.max() < most
    assert not np.asarray(orthogonalize(jnp.zeros((1, 3, 4)), name)).any()
