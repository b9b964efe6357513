"""The divergence from a teacher and its gradient are those of the textbook formula, in blocks, on meshes, with padding of
the vocabulary, and for the most likely tokens of the teacher.
"""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models.divergence import Scores, divergence, outcomes
from halcyon.models.softmax import Softmax, at_temperature
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.mesh import ResolvedMesh
from tests.trainer.models.test_log_probs import BATCH, EMBED, ON_MESHES, POSITION, VOCAB, arrays

WIDE = EMBED.resize(16)
TOKENS = 21
"""Tokens of the vocabulary without its padding."""


def teacher_arrays() -> tuple[Any, Any, Any]:
    """Features and head of a wider teacher, and weights."""
    noise = np.random.default_rng(7)
    features = hax.named(jnp.asarray(noise.standard_normal((8, 12, 16)), jnp.float32), (BATCH, POSITION, WIDE))
    head = hax.named(jnp.asarray(noise.standard_normal((24, 16)), jnp.float32), (VOCAB, WIDE))
    return features, head, hax.named(jnp.asarray(noise.random((8, 12)), jnp.float32), (BATCH, POSITION))


def textbook(logits: jax.Array, others: jax.Array, weights: jax.Array, beta: float, most: int | None) -> jax.Array:
    """As TRL's ``generalized_jsd_loss`` has it (huggingface/trl, experimental/gkd), summed with weights: with the
    mixture's logarithm from both distributions, and each divergence as a sum over the vocabulary.
    """
    p, q = jax.nn.softmax(logits), jax.nn.softmax(others)
    if most is not None:
        ranked = jnp.argsort(-others, axis=-1)
        p, q = (
            jnp.concatenate([one[..., :most], one[..., most:].sum(-1, keepdims=True)], -1)
            for one in (jnp.take_along_axis(each, ranked, -1) for each in (p, q))
        )

    def kl(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.sum(one * (jnp.log(one) - jnp.log(other)), -1)

    if beta == 0:
        found = kl(q, p)
    elif beta == 1:
        found = kl(p, q)
    else:
        mixed = beta * q + (1 - beta) * p
        found = beta * kl(q, mixed) + (1 - beta) * kl(p, mixed)
    return jnp.sum(found * weights)


@ON_MESHES
@pytest.mark.parametrize(
    ("most", "beta", "temperature", "soft_cap"),
    [
        (None, 0.0, 1.0, None),
        (3, 0.3, 1.7, 2.0),
        (None, 1.0, 1.7, 2.0),
        *(pytest.param(*one, marks=pytest.mark.variant) for one in [(3, 0.0, 1.0, None), (3, 1.0, 1.0, None)]),
        *(pytest.param(*one, marks=pytest.mark.variant) for one in [(None, 0.3, 1.0, None), (None, 0.0, 1.7, 2.0)]),
    ],
)
def test_value_and_gradient_are_those_of_the_textbook(
    resolved: ResolvedMesh | None,
    most: int | None,
    beta: float,
    temperature: float,
    soft_cap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("halcyon.models.logit_blocks.most_logit_bytes", lambda: 1000)  # several blocks
    features, head, _ = arrays("float32")
    others, other_head, weights = teacher_arrays()

    def ours(features: Any, head: Any) -> jax.Array:
        mine, softmax = at_temperature(features, Softmax(EMBED, VOCAB, soft_cap, TOKENS), temperature)
        theirs, other = at_temperature(others, Softmax(WIDE, VOCAB, None, TOKENS), temperature)
        found = divergence(Scores(mine, head, softmax), Scores(theirs, other_head, other), weights, beta, most)
        return 3.0 * found

    def plain(features: Any, head: Any) -> jax.Array:
        def logits(features: Any, head: Any, embed: str, cap: float | None) -> jax.Array:
            head = head.rearrange((embed, VOCAB.name)).array[:, :TOKENS]
            found = jnp.einsum("bpe,ev->bpv", features.array, head, precision="highest")
            return (found if cap is None else cap * jnp.tanh(found / cap)) / temperature

        of_teacher = logits(others, other_head, "embed", None)
        return 3.0 * textbook(logits(features, head, "embed", soft_cap), of_teacher, weights.array, beta, most)

    expected, gradients = jax.value_and_grad(plain, (0, 1))(features, head)

    def both() -> tuple[Any, Any]:
        return jax.jit(jax.value_and_grad(ours, (0, 1)))(features, head), jax.jit(ours)(features, head)

    if resolved is None:
        (value, found), alone = both()
    else:
        with computing(build_mesh(resolved, jax.devices()[: resolved.devices])):
            (value, found), alone = both()
    assert float(alone) == pytest.approx(float(value), rel=1e-6)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for mine, other in zip(found, gradients, strict=True):
        left, right = np.asarray(mine.rearrange(other.axes).array), np.asarray(other.array)
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    assert not np.asarray(found[1].rearrange(head.axes).array)[:, TOKENS:].any(), "padding gets no gradient"


def test_a_model_has_no_divergence_from_itself() -> None:
    features, head, _ = arrays("float32")
    own = Scores(features, head, Softmax(EMBED, VOCAB))
    weights = hax.ones((BATCH, POSITION))
    for beta, most in ((0.0, None), (0.5, 24), (1.0, 25)):
        value, gradient = jax.value_and_grad(
            lambda features, beta=beta, most=most: divergence(own._replace(features=features), own, weights, beta, most)
        )(features)
        assert abs(float(value)) < 1e-4
        assert float(jnp.abs(gradient.array).max()) < 1e-5


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_of_a_position_is_that_of_trl(beta: float) -> None:
    """``generalized_jsd_loss`` of huggingface/trl (trl/experimental/gkd/gkd_trainer.py, July 2026), in float64."""
    noise = np.random.default_rng(11)
    log_p, log_q = (
        logits - np.logaddexp.reduce(logits, -1, keepdims=True) for logits in 2 * noise.standard_normal((2, 64, 33))
    )

    def kl_div(given: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.exp(target) * (target - given)

    if beta in (0.0, 1.0):
        wanted = kl_div(log_p, log_q) if beta == 0 else kl_div(log_q, log_p)
    else:
        mixture = np.logaddexp(log_p + np.log1p(-beta), log_q + np.log(beta))
        wanted = beta * kl_div(mixture, log_q) + (1 - beta) * kl_div(mixture, log_p)
    found, _ = outcomes(beta, jnp.asarray(log_p, jnp.float32), jnp.asarray(log_q, jnp.float32))
    np.testing.assert_allclose(np.asarray(found).sum(-1), wanted.sum(-1), atol=1e-6)
