"""The preference objective on a tiny model: its loss is that of each answer alone, on any mesh, in any microbatches and
packing.
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
from halcyon.data.examples import Examples
from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from halcyon.step.validation import make_evaluation_step
from halcyon_api.memory import least_need
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.trainer.support.meshes import mesh_of

TINY = {"family": "llama", "numHiddenLayers": 1, "hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2}
ROWS, LENGTH, VOCABULARY, PAIRS = 4, 16, 60, 2
BETA = 0.3
SETTINGS: dict[str, Any] = {"orpo": {}, "reward": {"center": 0.2}}


def spec_of(
    kind: str, lora: dict[str, Any] | None = None, model: dict[str, Any] = TINY, **trainer: Any
) -> TrainingRunSpec:
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH} | trainer
    changes: dict[str, Any] = {} if lora is None else {"spec__adapter": {"lora": lora}}
    changes["spec__objective"] = {"preference": {kind: SETTINGS.get(kind, {"beta": BETA}), "pairsPerRow": PAIRS}}
    optimizer = {"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}}
    origin = {"huggingFace": {"path": "/base"}}
    return minimal_spec(
        spec__model=model, spec__from=origin, spec__optimizer=optimizer, spec__trainer=trainer, **changes
    )


def rows() -> tuple[dict[str, np.ndarray], list[tuple[int, slice, int]]]:
    """A batch, and the row, the tokens and the length of the prompt of each answer. The last row has one pair only."""
    noise = np.random.default_rng(0)
    windows = noise.integers(1, VOCABULARY, (ROWS, LENGTH + 1))
    weights, documents = np.zeros(windows.shape, np.float32), np.zeros(windows.shape, np.int32)
    answers: list[tuple[int, slice, int]] = []
    for row in range(ROWS):
        place = 0
        for number in range(2 if row == ROWS - 1 else 2 * PAIRS):
            size = int(noise.integers(3, 5))
            prompt = int(noise.integers(1, size))
            weights[row, place + prompt : place + size] = 1
            documents[row, place : place + size] = number
            answers.append((row, slice(place, place + size), prompt))
            place += size
        documents[row, place:] = 2 * PAIRS
    examples = Examples(
        windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32), weights[:, 1:], documents[:, :-1] + 1
    )
    names = ("tokens", "targets", "weights", "segments", "positions")
    return {name: getattr(examples, name) for name in names} | {"windows": windows}, answers


BATCH_ARRAYS, ANSWERS = rows()
ARRAYS = {name: array for name, array in BATCH_ARRAYS.items() if name != "windows"}


@jax.jit
def _logits(model: Any, texts: jax.Array) -> jax.Array:
    return model.logits(model(Inputs(hax.named(texts[:, :-1], (BATCH, POSITION)))).features).array


def alone(model: Any) -> np.ndarray:
    """The log-probability of each answer, from a pass in which its conversation is alone in a row, in float64: [pairs,
    2].
    """
    texts = np.zeros((len(ANSWERS), 5), np.int32)
    for number, (row, tokens, _) in enumerate(ANSWERS):
        texts[number, : tokens.stop - tokens.start] = BATCH_ARRAYS["windows"][row, tokens]
    logits = np.asarray(_logits(jax.tree.map(jnp.asarray, model), jnp.asarray(texts)), np.float64)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    sizes = [(tokens.stop - tokens.start, prompt) for _, tokens, prompt in ANSWERS]
    found = [
        sum(log_probs[n, t - 1, texts[n, t]] for t in range(prompt, size)) for n, (size, prompt) in enumerate(sizes)
    ]
    return np.array(found).reshape(-1, 2)


def first_state(program: Program) -> TrainState:
    """A state whose trained model is not the reference any more."""
    state = initial_state(program.build_state, program.template)
    noise = np.random.default_rng(1)

    def moved(path: Any, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        moves = program.trained is None or ".adapter" in jax.tree_util.keystr(path)
        return array + 0.1 * noise.standard_normal(array.shape).astype(array.dtype) if moves else array

    return dataclasses.replace(state, model=jax.tree_util.tree_map_with_path(moved, state.model))


def one_step(program: Program, first: TrainState, microbatches: int = 1) -> tuple[TrainState, Any]:
    parts = {name: jnp.asarray(array.reshape(microbatches, -1, LENGTH)) for name, array in ARRAYS.items()}
    with program.tracing():
        return jax.jit(program.train_step)(first, parts, jnp.zeros(program.mesh.size, jnp.int32))


@pytest.mark.slow
def test_dpo_compares_each_answer_with_the_begin_weights_on_any_mesh() -> None:
    whole = build_program(spec_of("dpo"), VOCABULARY, mesh_of())
    first = jax.tree.map(np.asarray, first_state(whole))
    ratios = alone(first.model) - alone(first.reference)
    margin = BETA * (ratios[:, 0] - ratios[:, 1])
    state, metrics = one_step(whole, first)
    assert float(metrics.tokens) == len(ratios) == 7
    assert float(metrics.loss) == pytest.approx(np.logaddexp(0, -margin).mean(), rel=1e-5)
    assert float(metrics.metrics["preference_accuracy"]) == pytest.approx((margin > 0).mean())
    assert float(metrics.metrics["reward_margin"]) == pytest.approx(margin.mean(), rel=1e-4)
    assert float(metrics.metrics["chosen_reward"]) == pytest.approx(BETA * ratios[:, 0].mean(), rel=1e-4)
    for before, after in zip(flatten(first.reference), flatten(state.reference), strict=True):
        assert np.array_equal(np.asarray(before.value), np.asarray(after.value)), before.path

    divided = build_program(spec_of("dpo", microbatches=2), VOCABULARY, mesh_of(data=2))
    other, parted = one_step(divided, first, 2)
    assert float(parted.loss) == pytest.approx(float(metrics.loss), rel=1e-5)
    assert float(parted.gradient_norm) == pytest.approx(float(metrics.gradient_norm), rel=1e-4)
    for one, two in zip(flatten(state.optimizer_state), flatten(other.optimizer_state), strict=True):
        np.testing.assert_allclose(np.asarray(one.value), np.asarray(two.value), rtol=2e-3, atol=1e-6, err_msg=one.path)


@pytest.mark.slow
@pytest.mark.variant
def test_with_an_adapter_the_reference_is_the_model_without_it() -> None:
    program = build_program(spec_of("ipo", {"rank": 2}), VOCABULARY, mesh_of())
    assert program.template.reference is None
    first = first_state(program)
    base = build_program(spec_of("simpo"), VOCABULARY, mesh_of())
    plain = initial_state(base.build_state, base.template).model
    ratios = alone(first.model) - alone(plain)
    expected = ((ratios[:, 0] - ratios[:, 1] - 1 / (2 * BETA)) ** 2).mean()
    with program.tracing():
        sums = jax.jit(make_evaluation_step(program.objective, None))(
            first.model, {name: array[None] for name, array in ARRAYS.items()}
        )
    assert float(sums.nats) / float(sums.weight) == pytest.approx(expected, rel=1e-5)
    assert int(sums.size_bytes) == 0


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("mesh", [{"fsdp": 2, "tensor": 2}, {"context": 2, "data": 2}, {"replica": 2}], ids=str)
@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_losses_without_a_reference_are_the_same_on_every_mesh(kind: str, mesh: dict[str, int]) -> None:
    whole = build_program(spec_of(kind), VOCABULARY, mesh_of())
    assert whole.template.reference is None
    first = jax.tree.map(np.asarray, first_state(whole))
    _, metrics = one_step(whole, first)
    mean = alone(first.model) / np.array(
        [tokens.stop - tokens.start - prompt for _, tokens, prompt in ANSWERS]
    ).reshape(-1, 2)
    if kind == "simpo":
        expected = np.logaddexp(0, -(BETA * (mean[:, 0] - mean[:, 1]) - 1.0)).mean()
    else:
        odds = mean - np.log(-np.expm1(mean))
        expected = (-mean[:, 0] + 0.1 * np.logaddexp(0, odds[:, 1] - odds[:, 0])).mean()
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)
    _, divided = one_step(build_program(spec_of(kind, microbatches=2), VOCABULARY, mesh_of(**mesh)), first, 2)
    assert float(divided.loss) == pytest.approx(float(metrics.loss), rel=1e-5)
    assert float(divided.gradient_norm) == pytest.approx(float(metrics.gradient_norm), rel=1e-4)


@pytest.mark.slow
def test_a_reward_model_scores_the_last_token_of_each_conversation() -> None:
    """The loss is that of TRL's RewardTrainer with a ``center_rewards_coefficient``."""
    spec = spec_of("reward", model=TINY | {"labels": ["reward"]})
    whole = build_program(spec, VOCABULARY, mesh_of())
    first: Any = jax.tree.map(np.asarray, first_state(whole))
    model = jax.tree.map(jnp.asarray, first.model)
    states = jax.jit(lambda texts: model.states(Inputs(hax.named(texts, (BATCH, POSITION)))).features.array)
    head, scores = first.model.score.weight.array.astype(np.float64), []
    for row, tokens, _ in ANSWERS:
        text = np.zeros((1, 5), np.int32)
        text[0, : tokens.stop - tokens.start] = BATCH_ARRAYS["windows"][row, tokens]
        scores.append(float((np.asarray(states(text))[0, tokens.stop - tokens.start - 1] @ head)[0]))
    chosen, rejected = np.array(scores).reshape(-1, 2).T
    expected = (np.logaddexp(0, rejected - chosen) + 0.2 * (chosen + rejected) ** 2).mean()
    _, metrics = one_step(whole, first)
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-6)
    assert float(metrics.metrics["preference_accuracy"]) == pytest.approx((chosen > rejected).mean())
    assert float(metrics.metrics["chosen_reward"]) == pytest.approx(chosen.mean(), rel=1e-5)
    parts = spec_of("reward", model=TINY | {"labels": ["reward"]}, microbatches=2)
    _, divided = one_step(build_program(parts, VOCABULARY, mesh_of(data=2)), first, 2)
    assert float(divided.loss) == pytest.approx(float(metrics.loss), rel=1e-5)


def state_bytes(spec: TrainingRunSpec) -> int:
    return least_need(spec, run_mesh(spec)).state_bytes


def test_the_reference_is_part_of_the_state_and_of_its_memory() -> None:
    program = build_program(spec_of("dpo"), VOCABULARY, mesh_of())
    paths = {leaf.path for leaf in flatten(program.template)}
    assert {path.replace("model.", "reference.", 1) for path in paths if path.startswith("model.")} <= paths
    assert state_bytes(spec_of("dpo")) * 4 == state_bytes(spec_of("simpo")) * 5
    assert not any(
        path.startswith("reference.")
        for path in map(
            str, (leaf.path for leaf in flatten(build_program(spec_of("simpo"), VOCABULARY, mesh_of()).template))
        )
    )


def test_positions_begin_anew_with_each_conversation() -> None:
    zeros = np.zeros((1, 7), np.int32)
    examples = Examples(zeros, zeros, zeros, np.array([[1, 1, 1, 2, 2, 3, 3]], np.int32))
    assert examples.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
