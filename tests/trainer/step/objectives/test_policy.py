"""The objective `policy` on a tiny model: its loss is that of the log-probabilities in float64, on any mesh and in any
microbatches.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.step.objectives.policy import SAMPLED_LOG_PROBS, Policy
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.trainer.support.meshes import mesh_of

TINY = {"family": "llama", "numHiddenLayers": 1, "hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2}
ROWS, LENGTH, VOCABULARY, TEMPERATURE = 4, 12, 60, 1.25
NOISE = np.random.default_rng(0)
PROMPTS, ANSWERS = (2, 5, 3, 1), (4, 6, 1, 9)
WINDOWS = NOISE.integers(1, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
WEIGHTS = np.zeros((ROWS, LENGTH), np.float32)
for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
    WEIGHTS[row, prompt - 1 : prompt - 1 + answer] = 1
ADVANTAGES = NOISE.normal(size=(ROWS, 1)).astype(np.float32) * WEIGHTS
ARRAYS = {"tokens": WINDOWS[:, :-1], "targets": WINDOWS[:, 1:], "weights": WEIGHTS, "advantages": ADVANTAGES}


def spec_of(microbatches: int = 1, **policy: Any) -> TrainingRunSpec:
    given = {"reward": "gsm8k", "groupSize": 2, "maxTokens": 9, "temperature": TEMPERATURE, **policy}
    return minimal_spec(
        spec__model=TINY,
        spec__from={"huggingFace": {"path": "/base"}},
        spec__objective={"policy": given},
        spec__optimizer={"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}},
        spec__trainer={"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches},
    )


def log_probs(model: Any) -> np.ndarray:
    """The log-probability of each target at the temperature, in float64: [row, position]."""
    tokens = hax.named(jnp.asarray(ARRAYS["tokens"]), (BATCH, POSITION))
    logits = jax.jit(lambda model: model.logits(model(Inputs(tokens)).features).array)(jax.tree.map(jnp.asarray, model))
    scaled = np.asarray(logits, np.float64) / TEMPERATURE
    every = scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)
    return np.take_along_axis(every, ARRAYS["targets"][..., None], -1)[..., 0]


def moved(tree: Any, by: float, seed: int) -> Any:
    noise = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + by * noise.standard_normal(np.shape(leaf)).astype(np.float32), tree
    )


def one_step(program: Program, state: TrainState, arrays: dict[str, np.ndarray]) -> tuple[TrainState, Any]:
    parts = {name: jnp.asarray(array.reshape(program.microbatches, -1, LENGTH)) for name, array in arrays.items()}
    with program.tracing():
        return jax.jit(program.train_step)(state, parts, jnp.zeros(program.mesh.size, jnp.int32))


@pytest.mark.slow
@pytest.mark.variant
def test_the_loss_compares_trained_sampling_and_first_weights_on_any_mesh() -> None:
    whole = build_program(
        spec_of(beta=0.2, updatesPerRollout=3, normalization="sequence", clipHigh=0.05, clipLow=0.05),
        VOCABULARY,
        mesh_of(),
    )
    begun = jax.tree.map(np.asarray, initial_state(whole.build_state, whole.template))
    state = dataclasses.replace(
        begun, model=moved(begun.model, 0.1, 1), sampler=moved(begun.sampler, 0.1, 2), step=np.int32(4)
    )
    trained, sampling, first = (log_probs(model) for model in (state.model, state.sampler, state.reference))
    assert isinstance(whole.objective, Policy)
    arrays = {
        **ARRAYS,
        SAMPLED_LOG_PROBS: np.asarray(whole.objective.log_probs(jax.tree.map(jnp.asarray, state.sampler), ARRAYS)),
    }
    np.testing.assert_allclose(arrays[SAMPLED_LOG_PROBS], np.where(WEIGHTS > 0, sampling, 0), atol=1e-5)
    after, metrics = one_step(whole, state, arrays)

    ratio, q = np.exp(trained - sampling), first - trained
    kl = np.exp(q) - q - 1
    inside = np.clip(ratio, 0.95, 1.05)
    each = -np.minimum(ratio * ADVANTAGES, inside * ADVANTAGES) + 0.2 * kl
    weights = WEIGHTS / WEIGHTS.sum(1, keepdims=True) / ROWS
    assert float(metrics.tokens) == ROWS
    assert float(metrics.loss) == pytest.approx((weights * each).sum(), rel=1e-4)
    assert float(metrics.metrics["kl"]) == pytest.approx((weights * kl).sum(), rel=1e-3)
    assert float(metrics.metrics["entropy"]) == pytest.approx(-(weights * trained).sum(), rel=1e-5)
    clipped = (weights * (inside * ADVANTAGES < ratio * ADVANTAGES)).sum()
    assert 0 < clipped < 1
    assert float(metrics.metrics["clipped_tokens"]) == pytest.approx(clipped, rel=1e-5)
    # The weights that sample change every 3 steps: they stay at step 4, and change at step 6.
    same = zip(flatten(after.sampler), flatten(state.sampler), strict=True)
    assert all(np.array_equal(np.asarray(one.value), np.asarray(two.value)) for one, two in same)
    later, _ = one_step(whole, dataclasses.replace(state, step=np.int32(6)), arrays)
    new = zip(flatten(later.sampler), flatten(state.model), strict=True)
    assert all(np.array_equal(np.asarray(one.value), np.asarray(two.value)) for one, two in new)

    for mesh in (mesh_of(data=2, fsdp=2),):
        divided = build_program(
            spec_of(1, beta=0.2, updatesPerRollout=3, normalization="sequence", clipHigh=0.05, clipLow=0.05),
            VOCABULARY,
            mesh,
        )
        _, other = one_step(divided, state, arrays)
        assert float(other.loss) == pytest.approx(float(metrics.loss), rel=1e-4)
        assert float(other.gradient_norm) == pytest.approx(float(metrics.gradient_norm), rel=1e-4)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("normalization", ["token", "constant"])
def test_the_first_step_of_a_rollout_has_the_gradient_of_weighted_log_probabilities(normalization: str) -> None:
    """On-policy the ratio is 1 exactly, and the gradient is that of the weighted log-probabilities, in any
    microbatches.
    """
    program = build_program(spec_of(normalization=normalization), VOCABULARY, mesh_of())
    state = initial_state(program.build_state, program.template)
    first = jax.tree.map(np.asarray, state)
    found, metrics = one_step(program, first, ARRAYS)
    weight = WEIGHTS.sum() if normalization == "token" else ROWS * 9
    assert float(metrics.loss) == pytest.approx(-(ADVANTAGES.sum() / weight), rel=1e-6)
    assert float(metrics.metrics["clipped_tokens"]) == 0

    halved = build_program(spec_of(2, normalization=normalization), VOCABULARY, mesh_of())
    other, parted = one_step(halved, first, ARRAYS)
    assert float(parted.loss) == pytest.approx(float(metrics.loss), rel=1e-6)
    assert float(parted.gradient_norm) == pytest.approx(float(metrics.gradient_norm), rel=1e-5)
    for one, two in zip(flatten(found.optimizer_state), flatten(other.optimizer_state), strict=True):
        np.testing.assert_allclose(np.asarray(one.value), np.asarray(two.value), rtol=2e-3, atol=1e-7, err_msg=one.path)

    def weighted(model: Any) -> jax.Array:
        tokens = hax.named(jnp.asarray(ARRAYS["tokens"]), (BATCH, POSITION))
        logits = model.logits(model(Inputs(tokens)).features).array / TEMPERATURE
        mine = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(ARRAYS["targets"])[..., None], -1)[..., 0]
        return -jnp.sum(mine * ADVANTAGES) / weight

    gradient = jax.tree.leaves(jax.jit(jax.grad(weighted))(jax.tree.map(jnp.asarray, first.model)))
    norm = np.sqrt(sum(float(jnp.sum(leaf * leaf)) for leaf in gradient))
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
