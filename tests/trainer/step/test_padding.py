"""A run trains as it would without the rows that pad its vocabulary: they stay zero, and all else is the same, with
every update rule.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray

from halcyon.checkpoint.layout import flatten
from halcyon.models.axes import VOCAB
from halcyon.models.softmax import without_padding
from halcyon.optim.registry import RULES
from halcyon.step import program as programs
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from tests.api.documents import minimal_spec
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_from

TOKENS, PADDED, ROWS, LENGTH, STEPS = 59, 64, 8, 8, 3
_SIZES = {"hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2, "numKeyValueHeads": 1, "numHiddenLayers": 1}
_LLAMA = {"numHiddenLayers": 1, "hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "untied": {"family": "llama"} | _LLAMA,
    "tied": {"family": "llama"} | _LLAMA | {"tieWordEmbeddings": True},
    "capped": {"family": "gemma2"} | _SIZES | {"headDim": 8, "finalLogitSoftcapping": 3.0},
    "gpt2": {"family": "gpt2", "numHiddenLayers": 1, "hiddenSize": 16, "numAttentionHeads": 2},
    "nanochat": {"family": "nanochat", "depth": 2, "hiddenSize": 64, "headDim": 32},
}


def built(
    optimizer: dict[str, Any], mesh: str = "fsdp 1", model: str = "untied", tokens: int = TOKENS, **trainer: Any
) -> Program:
    return build_program(spec_of(optimizer, model, **trainer), tokens, mesh_from(mesh))


def spec_of(optimizer: dict[str, Any], model: str, **trainer: Any) -> Any:
    rates = {"learningRate": 0.02, "schedule": {"constant": {}}}
    sizes = {"steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH} | trainer
    return minimal_spec(spec__model=MODELS[model], spec__optimizer=rates | optimizer, spec__trainer=sizes)


def arrays_of(state: TrainState) -> dict[str, tuple[np.ndarray, int | None]]:
    """The parameters and the optimizer's arrays by path, each with the place of its axis ``vocab``."""
    found: dict[str, tuple[np.ndarray, int | None]] = {}
    for leaf in flatten(state):
        axes = leaf.axes or ()
        found[leaf.path] = np.asarray(leaf.value), axes.index(VOCAB) if VOCAB in axes else None
    return found


def trained(program: Program, first: Any) -> tuple[list[float], TrainState]:
    """Losses and the state of some steps. Half of each row is padding."""
    noise = np.random.default_rng(0)
    weights = np.ones((1, ROWS, LENGTH), np.float32)
    weights[..., LENGTH // 2 :] = 0
    losses: list[float] = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(STEPS):
            tokens, targets = noise.integers(0, TOKENS, (2, 1, ROWS, LENGTH)).astype(np.int32)
            batch = batch_of(*(jnp.asarray(one) for one in (tokens, targets, weights, np.zeros_like(tokens))))
            first, metrics = step(first, batch, jnp.zeros(program.mesh.size, jnp.int32))
            losses.append(float(metrics.loss))
    return losses, first


def without(first: TrainState, exact: Program) -> TrainState:
    """The state of a program without padding that has the parameters of one with padding."""
    cut = [
        jnp.asarray(np.asarray(leaf)[tuple(slice(0, size) for size in wanted.shape)])
        for leaf, wanted in zip(jax.tree.leaves(first.model), jax.tree.leaves(exact.template.model), strict=True)
    ]
    return jax.jit(exact.complete_state)(jax.tree.unflatten(jax.tree.structure(exact.template.model), cut))


def compared(monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, Any], limit: float, **options: Any) -> None:
    """Train with and without padding, and compare losses and parameters within `limit`."""
    padded = built(optimizer, **options)
    monkeypatch.setattr(programs, "VOCABULARY_MULTIPLE", 1)
    exact = built(optimizer, **{**options, "mesh": "fsdp 1"})
    first = initial_state(padded.build_state, padded.template)
    begun = without(first, exact)
    losses, state = trained(padded, first)
    exact_losses, exact_state = trained(exact, begun)
    assert losses == pytest.approx(exact_losses, rel=max(limit, 1e-6))
    before, after, expected = arrays_of(first), arrays_of(state), arrays_of(exact_state)
    tables = 0
    for path, (array, vocab) in after.items():
        if path.startswith("model.") and vocab is not None:
            tables += 1
            rows, padding = np.split(array, [TOKENS], vocab)
            assert not padding.any(), path
            assert not np.array_equal(rows, np.split(before[path][0], [TOKENS], vocab)[0]), path
            array = rows
        if path.startswith("model."):
            np.testing.assert_allclose(
                array, expected[path][0], rtol=0, atol=limit * max(1, np.abs(array).max()), err_msg=path
            )
    assert tables


_LIMITS = {"soap": 0.05, "soapMuon": 0.05, "lion": 1e-4, "scion": 1e-4}
"""Largest difference of a parameter after steps of about 0.02: bases of eigenvectors and signs enlarge rounding.

Default: 1e-5.
"""
_RULES = {name: {name: {}} for name in RULES} | {
    "adamw with means": {"adamw": {"cautious": True, "clipUpdate": 0.2}},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("adamw with means", "kron") else pytest.mark.variant) for name in _RULES],
)
def test_every_update_rule_trains_as_without_padding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(monkeypatch, _RULES[name], _LIMITS.get(name, 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        ("tied", "fsdp 2 x tensor 2"),
        pytest.param("capped", "fsdp 1", marks=pytest.mark.variant),
        pytest.param("untied", "tensor 2 x context 2", marks=pytest.mark.variant),
        pytest.param("nanochat", "fsdp 2", marks=pytest.mark.variant),
    ],
)
def test_every_head_on_any_mesh_trains_as_without_padding(
    model: str, mesh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the usual epsilon, AdamW turns the rounding of gradients near zero into whole steps.
    compared(monkeypatch, {"adamw": {"epsilon": 0.001}}, 1e-4, model=model, mesh=mesh)


def with_lower_logits(state: TrainState, by: float) -> TrainState:
    """The same function of a tied GPT-2, with all logits lower: the first feature of the head's input is 1, and its
    weights are lower.
    """
    model: Any = state.model

    def first(x: Any, change: Any) -> Any:
        return NamedArray(change(x.array.at[..., 0]), x.axis_names)

    changes = (
        (lambda one: one.embedding.weight, first(model.embedding.weight, lambda at: at.add(-by))),
        (
            lambda one: one.positions.weight,
            first(model.positions.weight, lambda at: at.add(by)),
        ),  # the embedded tokens stay
        (lambda one: one.norm.weight, first(model.norm.weight, lambda at: at.set(0.0))),
        (lambda one: one.norm.bias, first(model.norm.bias, lambda at: at.set(1.0))),
    )
    for where, new in changes:
        model = eqx.tree_at(where, model, new)
    return dataclasses.replace(state, model=without_padding(model, TOKENS))


@pytest.mark.slow
def test_a_model_whose_logits_are_all_lower_trains_the_same() -> None:
    """The logits of published GPT-2 are near -60: padding with logit 0 would take all probability."""
    program = built({"adamw": {}, "weightDecay": 0.0}, model="gpt2")
    first = initial_state(program.build_state, program.template)
    losses, state = trained(program, with_lower_logits(first, 0.0))
    assert losses[0] < math.log(TOKENS) + 1
    for by in (30.0, -30.0):
        other_losses, other = trained(program, with_lower_logits(first, by))
        assert other_losses == pytest.approx(losses, rel=1e-4)
        for path, (array, _) in arrays_of(state).items():
            if path.startswith("model.blocks"):
                np.testing.assert_allclose(arrays_of(other)[path][0], array, rtol=0, atol=1e-3, err_msg=path)
