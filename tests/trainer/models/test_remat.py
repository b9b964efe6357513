"""Remat policies keep less for the backward pass and change no loss."""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis

from halcyon.models import Inputs, build_model
from halcyon.models.remat import group_size
from halcyon.models.stack import with_loops
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.model import read_model
from halcyon_api.spec.trainer import REMAT, Remat
from tests.families import llama

LAYERS, ROWS, LENGTH = 12, 4, 64
VOCAB, POSITION = Axis("vocab", 64), Axis("position", LENGTH)
SIZES: dict[str, Any] = {"hiddenSize": 16, "intermediateSize": 32, "numAttentionHeads": 2, "numKeyValueHeads": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": llama(LAYERS, 16, 32, 2),
    "gpt2": {"family": "gpt2", "numHiddenLayers": LAYERS, "hiddenSize": 16, "numAttentionHeads": 2},
    "gemma3": {"family": "gemma3"} | SIZES | {"numHiddenLayers": LAYERS, "slidingWindow": 16, "headDim": 8},
    # Each of its halves must repeat the pattern of windows: groups of one repetition would be those of the policy
    # `full`.
    "nanochat": {"family": "nanochat", "depth": 2 * LAYERS, "hiddenSize": 32, "headDim": 8, "slidingWindow": 16},
    "mixtral": {"family": "mixtral"} | SIZES | {"numHiddenLayers": LAYERS, "numLocalExperts": 4},
}
"""One scan, one with inputs, runs of unlike blocks, blocks with outputs."""
RECOMPUTES: tuple[Remat, ...] = ("dots", "attention", "full", "nested")
TOLERANCE = 1e-6
"""Largest difference of a gradient, as a share of the largest gradient.

XLA may fuse recomputed operations differently.
"""


def program(family: str, remat: Remat) -> tuple[Any, Any]:
    """The gradient of the loss as a function of a model, and the model."""
    spec = read_model(FAMILIES[family])
    batch, tokens = (
        Axis("batch", ROWS),
        np.random.default_rng(0).integers(0, VOCAB.size, (ROWS, LENGTH + 1)).astype(np.int32),
    )

    def loss(model: Any) -> jax.Array:
        inputs, targets = (hax.named(jnp.asarray(part), (batch, POSITION)) for part in (tokens[:, :-1], tokens[:, 1:]))
        return next_token_sums(model, Inputs(inputs), targets, hax.ones((batch, POSITION))).loss

    def build() -> Any:
        return with_loops(build_model(spec, VOCAB, POSITION, dtype="float32", key=jax.random.key(0)), remat)

    return jax.jit(jax.value_and_grad(loss)), build


@functools.cache
def computed(family: str, remat: Remat) -> tuple[float, list[np.ndarray]]:
    run, build = program(family, remat)
    loss, gradients = run(build())
    return float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)]


@functools.cache
def temporary_bytes(family: str, remat: Remat) -> int:
    run, build = program(family, remat)
    found: Any = run.lower(jax.eval_shape(build)).compile().memory_analysis()
    return found.temp_size_in_bytes


def variants(names: Any, fast: Any) -> list[Any]:
    return [each if each in fast else pytest.param(*each, marks=pytest.mark.variant) for each in names]


@pytest.mark.parametrize(
    ("family", "remat"),
    variants(
        [(family, remat) for family in FAMILIES for remat in (*RECOMPUTES, "offload")],
        [("llama", "dots"), ("llama", "nested")],
    ),
)
def test_a_policy_changes_no_loss(family: str, remat: Remat) -> None:
    (loss, gradients), (expected, expected_gradients) = computed(family, remat), computed(family, "none")
    assert loss == expected, "the forward pass is the same"
    largest = max(np.abs(gradient).max() for gradient in expected_gradients)
    for found, right in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.variant) for name in FAMILIES if name != "llama")]
)
def test_each_policy_needs_less_memory_than_the_one_before(family: str) -> None:
    needs = [temporary_bytes(family, remat) for remat in ("none", *RECOMPUTES)]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == len(needs)


def test_every_policy_is_stated() -> None:
    assert {"none", *RECOMPUTES, "offload", "auto"} == set(REMAT)


@pytest.mark.parametrize(
    ("length", "blocks", "size"),
    [(1, 1, 1), (4, 1, 2), (12, 1, 3), (36, 1, 6), (32, 1, 4), (61, 1, 1), (2, 6, 1), (8, 2, 2)],
)
def test_groups_keep_about_the_square_root_of_the_layers(length: int, blocks: int, size: int) -> None:
    assert group_size(length, blocks) == size
