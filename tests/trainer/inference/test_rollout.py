"""Sampled answers: each token is the one that its key draws from the model without a cache, on every mesh."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.inference.rollout import Answered, Drawn, Prompted, Rollouts, RolloutShape, token_keys, token_noise
from halcyon.parallel.axes import shardings
from halcyon.parallel.device_mesh import context_of
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

    end = pauses = 7
    rounds = 17

    def __call__(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        calling = [row for row in rows if tokens[row, counts[row] - 1] == self.end]
        return {row: [3, 4] if counts[row] % 2 == 0 else [] for row in calling}


def rollouts_of(mesh: Any, tool: Any = None, *, is_sharded: bool = False) -> Rollouts:
    shape = RolloutShape(len(COUNTS), PROMPT, ANSWER, VOCAB.size, TEMPERATURE, ENDS, "float32", GROUP)
    return Rollouts(mesh, shape, SEED, tool, is_sharded)


def sampled(model: Any, mesh: Any, tool: Any = None) -> Answered:
    return rollouts_of(mesh, tool)(model, PROMPTED, PURPOSE, BATCH)


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


POLICY = Policy(PolicySpec(reward="gsm8k", temperature=TEMPERATURE), compute_dtype=jnp.dtype("float32"))
LENGTH = PROMPT + ANSWER
SHARP = ["llama", "qwen3", "qwen3-moe", "nanochat"]


def sharp(family: str) -> Any:
    """A model with exaggerated weights."""
    return make.__wrapped__(LLAMA if family == "llama" else FAMILIES[family], length=LENGTH)


def arrays(found: Answered) -> dict[str, jax.Array]:
    rows = rows_of(PROMPTED, found, LENGTH, pad=0)
    return {name: jnp.asarray(array) for name, array in rows._asdict().items()}


@jax.jit
def draws(model: Any, batch: dict[str, jax.Array], numbers: Any) -> Any:
    places = jnp.maximum(jnp.arange(LENGTH) - COUNTS[:, None] + 1, 0)
    prompts, answers = (jnp.broadcast_to(x[:, None], places.shape) for x in PROMPTED[2:])
    keys = token_keys(prompts, answers, places, numbers)
    return POLICY.draws(model, batch, keys, partial(token_noise, tokens=VOCAB.size))


class ForwardPass:
    """The trainer with one model, whatever model the decoding program has."""

    def __init__(self, model: Any) -> None:
        self.model, self.others = model, 0

    def __call__(self, model: Any, prompted: Prompted, answered: Answered, numbers: np.ndarray) -> Drawn:
        places = COUNTS[:, None] - 1 + np.arange(ANSWER)
        batch = arrays(answered)
        found = Drawn(*(np.take_along_axis(np.asarray(x), places, 1) for x in draws(self.model, batch, numbers)))
        self.others += int((answered.sampled & (found.tokens != answered.tokens)).sum())
        return found


@pytest.mark.parametrize("family", SHARP)
def test_answers_are_exactly_those_of_the_trainer(family: str) -> None:
    """Tokens are drawn from its logits, and their log-probabilities have the bits of its forward pass alone: 1,000
    batches of four families.
    """
    model, log_probs, tokens = sharp(family), jax.jit(POLICY.log_probs), 0
    rollouts, trainer = rollouts_of(mesh_of()), ForwardPass(model)
    for batch in range(250):
        found = rollouts(model, PROMPTED, PURPOSE, batch, trainer)
        rows = arrays(found)
        assert np.array_equal(log_probs(model, rows), rows["log_probs"]), batch
        tokens += int(found.sampled.sum())
    assert tokens > 10_000


@pytest.mark.parametrize("tool", [None, Adder()], ids=["alone", "tool"])
def test_the_decoding_program_only_guesses_what_the_trainer_draws(tool: Any) -> None:
    model = sharp("llama")
    wrong = jax.tree.map(lambda leaf: leaf * 1.05, model)
    trainer, other = ForwardPass(model), ForwardPass(model)
    for batch in range(4):
        found = rollouts_of(mesh_of(), tool)(model, PROMPTED, PURPOSE, batch, trainer)
        guessed = rollouts_of(mesh_of(), tool)(wrong, PROMPTED, PURPOSE, batch, other)
        assert all(map(np.array_equal, found, guessed))
        if batch == 0 and tool is not None:
            assert not found.sampled[np.arange(ANSWER) < found.counts[:, None]].all()
    assert other.others > 20 > trainer.others


@pytest.mark.parametrize("family", SHARP)
@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 2}], ids=str)
def test_sharded_sampling_gives_the_answers_of_the_trainer(family: str, axes: dict[str, int]) -> None:
    """Bit for bit those of whole weights; without the trainer the log-probabilities differ by rounding."""
    model, mesh = sharp(family), mesh_of(**axes)
    placed = jax.device_put(model, shardings(model, mesh))
    rollouts, whole, trainer = rollouts_of(mesh, is_sharded=True), rollouts_of(mesh_of()), ForwardPass(model)
    for batch in range(4):
        mine, expected = (
            one(given, PROMPTED, PURPOSE, batch, trainer) for one, given in ((rollouts, placed), (whole, model))
        )
        assert all(map(np.array_equal, mine, expected))
    mine, expected = rollouts(placed, PROMPTED, PURPOSE, 0), whole(model, PROMPTED, PURPOSE, 0)
    np.testing.assert_allclose(mine.log_probs, expected.log_probs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("is_sharded", [True, False])
def test_only_in_sharded_sampling_no_device_gathers_all_weights(is_sharded: bool) -> None:
    spec = LLAMA.model_copy(update={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8})
    model, mesh = make.__wrapped__(spec, length=LENGTH), mesh_of(fsdp=2, tensor=2)
    placed = jax.device_put(model, shardings(model, mesh))
    rollouts = rollouts_of(mesh, is_sharded=is_sharded)
    begin, decode = rollouts._compiled(placed)
    with context_of(mesh if is_sharded else None):
        state = begin(placed, *PROMPTED, np.zeros(3, np.uint32))
        forced = np.zeros((len(COUNTS), ANSWER), np.int32)
        memory: Any = decode.lower(placed, state, forced, COUNTS > 0).compile().memory_analysis()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    assert (memory.temp_size_in_bytes < weights / 4) == is_sharded


def test_a_draw_that_depends_on_later_tokens_is_an_error() -> None:
    class Restless(ForwardPass):
        def __call__(self, model: Any, prompted: Prompted, answered: Answered, numbers: np.ndarray) -> Drawn:
            return Drawn(1 - np.minimum(answered.tokens, 1), answered.log_probs)

    with pytest.raises(ValueError, match="depends on the tokens after it"):
        rollouts_of(mesh_of())(sharp("llama"), PROMPTED, PURPOSE, BATCH, Restless(None))


@pytest.mark.parametrize("family", SHARP)
def test_log_probabilities_of_sampling_are_those_of_the_trainer_but_for_rounding(family: str) -> None:
    """In float32 on a processor, with exaggerated weights."""
    model = sharp(family)
    found = sampled(model, mesh_of())
    rows = arrays(found)
    assert (rows["log_probs"] < 0).sum() == found.sampled.sum() > len(COUNTS)
    np.testing.assert_allclose(jax.jit(POLICY.log_probs)(model, rows), rows["log_probs"], rtol=0, atol=5e-5)
