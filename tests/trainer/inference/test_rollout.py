"""Sampled answers: each token is the one that its key draws from the model without a cache, on every mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.inference.rollout import Answered, Prompted, Rollouts, RolloutShape
from halcyon.run.policy.answers import rows_of
from halcyon.step.objectives.policy import Policy
from halcyon_api.spec.objective import PolicySpec
from tests.trainer.models.cases import FAMILIES, LLAMA, VOCAB, logits, make, named
from tests.trainer.support.meshes import mesh_of

pytestmark = [pytest.mark.slow, pytest.mark.variant]

PROMPT, ANSWER, GROUP = 6, 10, 2
SEED, PURPOSE, BATCH = 5, 1, 17
TEMPERATURE = 1.5
ENDS = (1, 2)
NOISE = np.random.default_rng(2)
COUNTS = np.repeat(np.array([1, 6, 3, 4], np.int32), GROUP)
TOKENS = np.repeat(NOISE.integers(3, VOCAB.size, (4, PROMPT)), GROUP, 0).astype(np.int32)
PROMPTED = Prompted(
    TOKENS, COUNTS, np.repeat(np.arange(4, dtype=np.uint32), GROUP), np.tile(np.arange(GROUP, dtype=np.uint32), 4)
)


class Adder:
    """A calculator that is called by one token and answers with two, at even places only."""

    end = 7

    def result(self, answer: np.ndarray) -> list[int]:
        return [3, 4] if len(answer) % 2 == 0 else []


def sampled(model: Any, mesh: Any, calculator: Any = None) -> Answered:
    shape = RolloutShape(len(COUNTS), PROMPT, ANSWER, VOCAB.size, TEMPERATURE, ENDS, "float32", GROUP)
    return Rollouts(mesh, shape, SEED, calculator)(model, PROMPTED, PURPOSE, BATCH)


def drawn(row_logits: np.ndarray, prompt: int, answer: int) -> list[int]:
    """The tokens that the keys of an answer draw from logits [place, token]."""
    key = jax.random.key(0, impl="threefry2x32")
    for number in (SEED, PURPOSE, BATCH, prompt, answer):
        key = jax.random.fold_in(key, number)
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(len(row_logits)))
    return jax.vmap(jax.random.categorical)(keys, jnp.asarray(row_logits) / TEMPERATURE).tolist()


def check(model: Any, found: Answered) -> None:
    """Each sampled token is the one of its key and of the text before it, and answers end where they must."""
    texts = np.zeros((len(COUNTS), PROMPT + ANSWER), np.int32)
    for row, count in enumerate(COUNTS):
        texts[row, :count] = TOKENS[row, :count]
        texts[row, count : count + ANSWER] = found.tokens[row]
    every = np.asarray(logits(model, named(texts)))
    for row, count in enumerate(COUNTS):
        expected = drawn(every[row, count - 1 : count - 1 + ANSWER], row // GROUP, row % GROUP)
        mine, own = found.tokens[row], found.sampled[row]
        assert mine[own].tolist() == np.array(expected)[own].tolist(), row
        assert not own[found.counts[row] :].any()
        ends = [place for place in np.flatnonzero(own) if mine[place] in ENDS]
        assert ends in ([], [found.counts[row] - 1])
        assert found.ended[row] == bool(ends)
        assert bool(ends) or found.counts[row] == ANSWER or mine[found.counts[row] - 1] == Adder.end


def test_tokens_are_those_of_their_keys_on_every_mesh() -> None:
    model = make(LLAMA, length=PROMPT + ANSWER)
    found = sampled(model, mesh_of())
    check(model, found)
    assert 0 < found.ended.sum() < len(COUNTS)
    assert len({tuple(row) for row in found.tokens.tolist()}) == len(COUNTS)
    for mesh in (mesh_of(data=4), mesh_of(data=2, fsdp=2)):
        *exact, log_probs = zip(sampled(model, mesh), found, strict=True)
        for mine, theirs in exact:
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_allclose(*log_probs, rtol=0, atol=5e-5)


def test_the_calculator_writes_into_the_answers() -> None:
    model = make(LLAMA, length=PROMPT + ANSWER)
    found = sampled(model, mesh_of(), Adder())
    check(model, found)
    calls = 0
    for row, count in enumerate(found.counts.tolist()):
        for place in np.flatnonzero((found.tokens[row] == Adder.end) & found.sampled[row]).tolist():
            if place % 2 == 1 and place + 3 < ANSWER:
                calls += 1
                assert found.tokens[row, place + 1 : place + 3].tolist() == [3, 4]
                assert not found.sampled[row, place + 1 : place + 3].any()
                assert count > place + 3
    assert calls == (~found.sampled & (np.arange(ANSWER) < found.counts[:, None])).sum() // 2 > 0


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-moe", "nanochat"])
def test_log_probabilities_of_sampling_are_those_of_the_trainer_but_for_rounding(family: str) -> None:
    """In float32 on a processor, with exaggerated weights."""
    spec = LLAMA if family == "llama" else FAMILIES[family]
    model = make.__wrapped__(spec, length=PROMPT + ANSWER)
    found = sampled(model, mesh_of())
    rows = rows_of(PROMPTED, found, PROMPT + ANSWER, pad=0)
    policy = Policy(PolicySpec(reward="gsm8k", temperature=TEMPERATURE), jnp.dtype("float32"))
    of_trainer = jax.jit(policy.log_probs)(model, {name: jnp.asarray(array) for name, array in rows._asdict().items()})
    assert (rows.log_probs < 0).sum() == found.sampled.sum() > len(COUNTS)
    np.testing.assert_allclose(np.asarray(of_trainer), rows.log_probs, rtol=0, atol=5e-5)
