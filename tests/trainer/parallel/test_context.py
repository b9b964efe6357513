"""A mesh that splits positions: models whose positions are given compute what one device computes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs
from halcyon.parallel.axes import COMPUTE_AXES, constrain, shardings
from halcyon.parallel.partition import computing
from halcyon.step.objectives.next_token import next_token_sums
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import GPT2, LLAMA, batch, make, named
from tests.trainer.support.meshes import mesh_of


def loss_and_gradient(model: Any, tokens: Any, targets: Any, weights: Any, segments: Any, positions: Any) -> Any:
    return jax.value_and_grad(
        lambda model: next_token_sums(model, Inputs(tokens, positions, segments), targets, weights).loss
    )(model)


@pytest.mark.parametrize("spec", [LLAMA, pytest.param(GPT2, marks=pytest.mark.variant)], ids=["llama", "gpt2"])
def test_given_positions_mean_the_same_on_a_mesh_that_splits_them(spec: ModelSection) -> None:
    """Positions restart with each segment, so a row of learned positions is used by several devices."""
    model, arrays = make(spec), batch(rows=4)
    ids = np.asarray(arrays[3].array)
    starts = np.array([np.argmax(row == 1) for row in ids])
    positions = np.arange(ids.shape[1]) - np.where(ids == 1, starts[:, None], 0)
    inputs = (*arrays, named(positions.astype(np.int32)))
    alone = jax.jit(loss_and_gradient)(model, *inputs)
    mesh = mesh_of(fsdp=2, context=2, tensor=2)
    spread, rows = (
        jax.device_put(model, shardings(model, mesh)),
        jax.device_put(inputs, shardings(inputs, mesh, COMPUTE_AXES)),
    )
    with computing(mesh):
        together = jax.jit(lambda *inputs: constrain(loss_and_gradient(*inputs), mesh))(spread, *rows)
    for left, right in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * float(jnp.abs(left).max()) + 1e-5)
