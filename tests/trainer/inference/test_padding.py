"""Rows that pad the vocabulary of a model have no probability in logits, scores and texts, whatever these rows hold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis

import halcyon
from halcyon.inference import Engine, Sampling
from halcyon.inference.likelihood import log_probs_at
from halcyon.inference.rollout import Prompted, Rollouts, RolloutShape
from halcyon.models import CausalLM, Inputs, build_model
from halcyon.models.int8 import quantized
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import GPT2, LLAMA, VOCAB, make, named
from tests.trainer.support.meshes import mesh_of

PADDED, LENGTH = VOCAB.resize(32), 32
TOKENS = np.random.default_rng(0).integers(0, VOCAB.size, (2, 6)).astype(np.int32)


def pair(spec: ModelSection) -> tuple[CausalLM, CausalLM]:
    """A model, and the same one with padding whose logits would be the greatest."""
    exact = make.__wrapped__(spec, length=LENGTH)
    shapes = jax.eval_shape(
        lambda: build_model(spec, PADDED, Axis("position", LENGTH), tokens=VOCAB.size, key=jax.random.key(0))
    )

    def wider(shape: Any, leaf: jax.Array) -> jax.Array:
        return jnp.pad(
            leaf, [(0, new - old) for new, old in zip(shape.shape, leaf.shape, strict=True)], constant_values=9.0
        )

    padded = [wider(*both) for both in zip(jax.tree.leaves(shapes), jax.tree.leaves(exact), strict=True)]
    return exact, jax.tree.unflatten(jax.tree.structure(shapes), padded)


@pytest.fixture(scope="module", params=[GPT2, pytest.param(LLAMA, marks=pytest.mark.variant)], ids=["tied", "untied"])
def models(request: pytest.FixtureRequest) -> tuple[CausalLM, CausalLM]:
    return pair(request.param)


def test_logits_of_padding_are_minus_infinity(models: tuple[CausalLM, CausalLM]) -> None:
    exact, padded = models
    found = np.asarray(halcyon.logits(padded, TOKENS))
    np.testing.assert_allclose(found[..., : VOCAB.size], halcyon.logits(exact, TOKENS), rtol=1e-5, atol=1e-5)
    assert (found[..., VOCAB.size :] == -np.inf).all()
    eight = np.asarray(halcyon.logits(quantized(padded), TOKENS))
    assert np.isfinite(eight[..., : VOCAB.size]).all()
    assert (eight[..., VOCAB.size :] == -np.inf).all()
    with pytest.raises(ValueError, match=r"tokens are ids of 0 to 23, not 24 to 24"):
        halcyon.logits(padded, [[VOCAB.size]])


def test_scores_and_the_most_likely_token_are_those_without_padding(models: tuple[CausalLM, CausalLM]) -> None:
    def scores(model: CausalLM) -> tuple[jax.Array, jax.Array]:
        features = model(Inputs(named(TOKENS))).features.rearrange(("batch", "position", "embed")).array
        return log_probs_at(model, features, jnp.asarray(TOKENS)[..., None])

    (log_probs, best), (padded_log_probs, padded_best) = (jax.jit(scores)(model) for model in models)
    np.testing.assert_allclose(padded_log_probs, log_probs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(padded_best, best)


@pytest.mark.slow
def test_an_engine_chooses_and_scores_as_without_padding(models: tuple[CausalLM, CausalLM]) -> None:
    found: list[list[Any]] = []
    for model in models:
        engine = Engine(model, slots=2, alternatives=3)
        for settings in (Sampling(6, temperature=0.0), Sampling(6, temperature=1.5, seed=3, top_p=0.9)):
            engine.submit(TOKENS[0], settings)
        texts = [one for _ in range(40) for one in engine.step()]
        assert not engine.unfinished
        found.append(texts)
        with pytest.raises(ValueError, match="the prompt has the token 24; the model has 0 to 23"):
            engine.submit([VOCAB.size])
    exact, padded = (sorted(texts, key=lambda one: one.sequence) for texts in found)
    assert {one.sequence for one in exact} == {0, 1}
    for left, right in zip(exact, padded, strict=True):
        assert right.log_prob == pytest.approx(left.log_prob, abs=1e-4)
        if left.sequence == 0:
            assert left.id == right.id
            assert [token for token, _ in left.alternatives] == [token for token, _ in right.alternatives]
        assert max(right.id, *(token for token, _ in right.alternatives)) < VOCAB.size


@pytest.mark.slow
@pytest.mark.variant
def test_answers_of_a_training_have_no_padding(models: tuple[CausalLM, CausalLM]) -> None:
    shape = RolloutShape(4, 6, 20, PADDED.size, 2.0, (1,), "float32")
    prompts = Prompted(
        np.tile(TOKENS, (2, 1)), np.full(4, 6, np.int32), np.arange(4, dtype=np.uint32), np.zeros(4, np.uint32)
    )
    found = Rollouts(mesh_of(), shape, 0)(models[1], prompts, 0, 0)
    assert found.tokens.max() < VOCAB.size
    assert len(np.unique(found.tokens)) > 5
