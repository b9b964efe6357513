"""The estimates of curvature have the diagonal of the Hessian, or of its Gauss-Newton part, as their mean."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.step.curvature import check_estimator, gauss_newton, hutchinson
from halcyon.step.objectives.objective import Batch, Objective

DRAWS = 4000
INPUTS = np.array([[1.0, -0.5], [0.3, 2.0], [-1.2, 0.7]], np.float32)
WEIGHTS = np.array([1.0, 0.25, 2.0], np.float32)
MODEL = np.array([[0.4, -0.3, 0.1], [0.2, 0.5, -0.6]], np.float32)


class Linear:
    """A softmax over three classes of a linear map of `INPUTS`; each input is a row of one position."""

    def sampled(self, model: jax.Array, batch: Batch, seeds: jax.Array) -> Batch:
        """See `halcyon.step.curvature.Samples`."""
        drawn = jax.vmap(lambda seed, logits: jax.random.categorical(jax.random.key(seed), logits))(
            seeds, batch["inputs"] @ model
        )
        return {**batch, "targets": drawn[:, None]}


def gradient_sums(batch: Batch) -> jax.Array:
    def loss(model: jax.Array) -> jax.Array:
        found = jax.nn.log_softmax(batch["inputs"] @ model)
        return -jnp.sum(jnp.take_along_axis(found, batch["targets"], axis=-1) * batch["weights"])

    return jax.grad(loss)(jnp.asarray(MODEL))


def batch_of(microbatches: int = 1) -> Any:
    shape = (microbatches, len(INPUTS) // microbatches)
    return {"inputs": jnp.asarray(INPUTS).reshape(*shape, 2), "weights": jnp.asarray(WEIGHTS).reshape(*shape, 1)}


def estimate(key: jax.Array, microbatches: int = 1) -> jax.Array:
    return gauss_newton(Linear(), gradient_sums, jnp.asarray(MODEL), batch_of(microbatches), key)


def test_sampled_targets_give_the_diagonal_of_the_weighted_gauss_newton_matrix() -> None:
    keys = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
    found = np.asarray(jnp.mean(jax.jit(jax.vmap(estimate))(keys), axis=0))
    chances = np.asarray(jax.nn.softmax(INPUTS @ MODEL))
    exact = np.einsum("n,ni,nc->ic", WEIGHTS, INPUTS**2, chances * (1 - chances)) / WEIGHTS.sum()
    np.testing.assert_allclose(found, exact, rtol=0.12)


def test_microbatches_do_not_change_the_sampled_targets() -> None:
    one, three = (jax.jit(functools.partial(estimate, microbatches=number))(jax.random.key(3)) for number in (1, 3))
    np.testing.assert_allclose(three, one, rtol=1e-6)


def test_random_directions_give_the_diagonal_of_the_hessian() -> None:
    matrix = np.array([[2.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 1.5]], np.float32)

    def loss_sum(part: Any, rows: Batch, number: jax.Array) -> jax.Array:
        del number
        return jnp.sum(rows["weights"]) * 0.5 * part["w"] @ jnp.asarray(matrix) @ part["w"]

    batch = {"weights": jnp.array([[[0.5, 1.5]], [[1.0, 2.0]]])}
    keys = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
    one = functools.partial(hutchinson, loss_sum, {"w": jnp.ones(3)}, batch)
    found = np.asarray(jnp.mean(jax.jit(jax.vmap(one))(keys)["w"], axis=0))
    np.testing.assert_allclose(found, np.diag(matrix), rtol=0.1)


def test_an_objective_that_samples_nothing_cannot_serve_the_estimator() -> None:
    tokens, pairs = (
        cast("Objective", SimpleNamespace(per_token=True)),
        cast("Objective", SimpleNamespace(per_token=False)),
    )
    check_estimator("hutchinson", tokens)
    with pytest.raises(
        BadConfiguration, match=r"sophia\.estimator: gaussNewton needs the objective nextToken; use hutchinson"
    ):
        check_estimator("gaussNewton", tokens)
    check_estimator(None, pairs)
    for estimator in ("hutchinson", "gaussNewton"):
        with pytest.raises(
            BadConfiguration, match=r"spec\.optimizer\.sophia: it needs an objective that weighs each token alone"
        ):
            check_estimator(estimator, pairs)
