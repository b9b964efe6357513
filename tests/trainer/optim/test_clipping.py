"""Clipping of gradients by element and by output."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from halcyon.models.parameters import parameters
from halcyon.optim import build_optimizer
from halcyon.optim.registry import clipped
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.optim.tiny import plain, tiny


def spec_of(**settings: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate_json(json.dumps({"adamw": {}, **settings}))


def test_clipping_by_value_and_by_output_is_that_of_the_paper() -> None:
    """Brock et al. 2021, equation 3, for each row of a matrix [outputs, inputs], each token and each vector."""
    noise = np.random.default_rng(0)
    model, gradient = tiny(noise, 0.1), tiny(noise)
    settings, declared = spec_of(clip={"value": 1.2, "adaptive": 0.3}).clip, parameters(model)
    found = jax.jit(lambda gradient, model: clipped(settings, declared, gradient, model))(gradient, model)
    for (role, weight), (_, full), (_, ours) in zip(plain(model), plain(gradient), plain(found), strict=True):
        cut = np.clip(full, -1.2, 1.2)
        limit = 0.3 * np.maximum(np.linalg.norm(weight, axis=-1, keepdims=True), 1e-3)
        wanted = cut * np.minimum(1.0, limit / np.linalg.norm(cut, axis=-1, keepdims=True))
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, err_msg=role)
        assert np.abs(ours).max() < np.abs(full).max()


def test_clipping_is_part_of_the_update_and_has_no_state() -> None:
    model = tiny(np.random.default_rng(0))
    plain_rule, clipping = (
        build_optimizer(spec_of(maxGradientNorm=0, **further), model) for further in ({}, {"clip": {"value": 0.01}})
    )
    assert jax.tree.structure(jax.eval_shape(plain_rule.init, model)) == jax.tree.structure(
        jax.eval_shape(clipping.init, model)
    )
    # The second moment of AdamW shows the gradient that the rule got.
    _, state = jax.jit(lambda model: clipping.update(model, clipping.init(model), model, learning_rate=0.1))(model)
    largest = max(float(np.abs(np.asarray(leaf)).max()) for leaf in jax.tree.leaves(state[1].nu))
    assert np.isclose(largest, 0.05 * 0.01**2)
    assert "clip" not in spec_of().document()
