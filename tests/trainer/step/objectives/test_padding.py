"""Tokens without weight change no number of an objective: no loss, no loss or load of routers, no gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import build_model
from halcyon.step.objectives.next_token import NextToken
from halcyon.step.objectives.objective import Objective
from halcyon.step.objectives.policy import Policy
from halcyon.step.objectives.preference import Preference
from halcyon_api.spec.objective import PolicySpec, PreferenceSpec
from tests.trainer.models.cases import FAMILIES, VOCAB, changed

ROWS, LENGTH, COUNTED = 4, 10, (10, 6, 3, 0)
"""Positions of each row that are no padding; the last row is padding alone."""
FLOAT32 = jnp.dtype("float32")
OBJECTIVES: dict[str, Objective] = {
    "next token": NextToken(segments=False, compute_dtype=FLOAT32, z_loss=0.1),
    "conversations": NextToken(segments=True, compute_dtype=FLOAT32, weights="conversation_weights"),
    "preference": Preference(PreferenceSpec.model_validate({"simpo": {}}), compute_dtype=FLOAT32),
    "policy": Policy(
        PolicySpec.model_validate({"reward": "gsm8k", "groupSize": 2, "maxTokens": 9}), compute_dtype=FLOAT32
    ),
}
FACTORS = {"router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.1}
MODELS = {
    "mixtral": changed(FAMILIES["mixtral"], **FACTORS),
    "deepseekV3": changed(FAMILIES["deepseek-v3"], **FACTORS, router_correction_coef=0.2),
    "qwen3Next": changed(FAMILIES["qwen3-next"], **FACTORS),
}


def batch(seed: int) -> dict[str, np.ndarray]:
    """A batch whose padding has tokens of this seed."""
    noise, padding = np.random.default_rng(0), np.random.default_rng(seed)
    counts = np.arange(LENGTH) < np.array(COUNTED)[:, None]
    tokens, targets = (
        np.where(counts, *(one.integers(0, VOCAB.size, counts.shape) for one in (noise, padding))) for _ in range(2)
    )
    segments = np.where(counts, 1 + (np.arange(LENGTH) >= np.array(COUNTED)[:, None] // 2), 3)
    weights = counts.astype(np.float32)
    return {
        "tokens": tokens.astype(np.int32),
        "targets": targets.astype(np.int32),
        "segments": segments.astype(np.int32),
        "positions": np.zeros_like(segments, np.int32) + np.arange(LENGTH, dtype=np.int32),
        "weights": weights,
        "conversation_weights": (weights / np.maximum(weights.sum(1, keepdims=True), 1)).astype(np.float32),
        "advantages": weights * noise.standard_normal((ROWS, 1)).astype(np.float32),
    }


CASES = [
    pytest.param(objective, model, marks=() if model == "deepseekV3" else pytest.mark.variant)
    for objective in OBJECTIVES
    for model in MODELS
]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "model"), CASES)
def test_the_tokens_of_padding_change_nothing(objective: str, model: str) -> None:
    made = build_model(MODELS[model], VOCAB, VOCAB.resize(LENGTH).alias("position"), key=jax.random.key(0))

    def minimised(model: Any, arrays: dict[str, jax.Array]) -> Any:
        sums = OBJECTIVES[objective](model, arrays, None, None)
        assert sums.penalty is not None
        return sums.loss + sums.penalty, sums

    compute = jax.jit(jax.value_and_grad(minimised, has_aux=True))
    found, other = (compute(made, {name: jnp.asarray(array) for name, array in batch(seed).items()}) for seed in (1, 2))
    (_, sums), gradient = found
    assert float(sums.weight) > 0
    assert float(sums.metrics["router_z_loss"]) > 0
    if model == "deepseekV3":
        assert any(
            np.asarray(leaf).any()
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
            if "correction" in str(path)
        )
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5 * max(1e-3, float(np.abs(left).max())))
