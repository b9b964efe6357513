"""Averages of the parameters: each is that of plain NumPy, leaves the training alone, and is sharded and typed as
stated.
"""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.optim.average import SNAPSHOT, averaged_model, empty_average, updated_average
from halcyon.parallel.axes import with_shardings
from halcyon.step.state import initial_state, with_new_average
from halcyon_api.spec.average import AverageSpec
from tests.trainer.step.test_program import program_of
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_of

STEPS = 20
EMA: dict[str, Any] = {"ema": {"decay": 0.9}}
SQRT: dict[str, Any] = {"emaSqrt": {"decay": 0.9, "fromStep": 8, "steps": 9}}
LAST: dict[str, Any] = {"lastK": {"models": 3, "everySteps": 4}}
EMBED, LAYERS = hax.Axis("embed", 4), hax.Axis("layer", 2)


def models(dtype: Any = jnp.float32) -> list[dict[str, Any]]:
    noise = np.random.default_rng(0)
    values = noise.normal(size=(STEPS + 1, 2, 4)).astype(np.float32)
    return [
        {"w": hax.named(jnp.asarray(one, dtype), (LAYERS, EMBED)), "b": jnp.asarray(one[0, 0], dtype)} for one in values
    ]


def expected(document: dict[str, Any], seen: list[np.ndarray]) -> np.ndarray:
    """The average by its definition, in float64, over the parameters after each step."""
    kind, settings = next(iter(document.items()))
    if kind == "lastK":
        kept = [one for step, one in enumerate(seen, 1) if step % settings["everySteps"] == 0]
        return np.mean(kept[-settings["models"] :], axis=0)
    average, decay = np.zeros_like(seen[0]), settings["decay"]
    if kind == "ema":  # zero at first, then divided by the sum of the shares
        for one in seen:
            average = decay * average + (1 - decay) * one
        return average / (1 - decay ** len(seen))
    for step, one in enumerate(seen, 1):
        growth = 1 - np.sqrt(min(max(step - settings["fromStep"], 0) / settings["steps"], 1))
        average += growth * (1 - decay) / (1 - decay**step) * (one - average)
    return average


@pytest.mark.parametrize("document", [EMA, SQRT, LAST], ids=["ema", "emaSqrt", "lastK"])
@pytest.mark.parametrize("steps", [5, STEPS])
def test_each_average_is_its_definition_in_float64(document: dict[str, Any], steps: int) -> None:
    spec = AverageSpec.model_validate(document)
    update = jax.jit(lambda average, model, done: updated_average(spec, average, model, done))
    first, *others = models()
    average = empty_average(spec, first)
    for step, model in enumerate(others[:steps], 1):
        average = update(average, model, jnp.int32(step))
    assert average is not None
    found = averaged_model(average, others[steps - 1])
    seen = [np.asarray(model["w"].array, np.float64) for model in others[:steps]]
    np.testing.assert_allclose(np.asarray(found["w"].array), expected(document, seen), atol=1e-6)
    np.testing.assert_allclose(float(found["b"]), expected(document, [one[0, 0] for one in seen]), atol=1e-6)


def test_a_mean_of_no_models_yet_is_the_model() -> None:
    model = models(jnp.bfloat16)[0]
    average = empty_average(AverageSpec.model_validate(LAST), model)
    assert average is not None
    found = averaged_model(average, model)
    assert found["w"].array.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found["w"].array, np.float32), np.asarray(model["w"].array, np.float32))


def test_a_moving_average_of_bfloat16_parameters_is_float32_and_all_are_sharded_like_the_parameters() -> None:
    mesh = mesh_of(fsdp=2)
    model = models(jnp.bfloat16)[0]
    wanted = with_shardings(model, mesh)["w"].array.sharding.spec
    moving, last = (with_shardings(empty_average(AverageSpec.model_validate(one), model), mesh) for one in (EMA, LAST))
    assert moving is not None
    assert last is not None
    assert (moving.model["w"].array.dtype, moving.model["w"].array.sharding.spec) == (jnp.float32, wanted)
    assert (last.snapshots["w"].array.dtype, last.snapshots["w"].axes[0].name) == (jnp.bfloat16, SNAPSHOT)
    assert tuple(last.snapshots["w"].array.sharding.spec) == (None, *wanted)


def test_an_average_changes_no_number_of_the_training_and_a_dropped_update_is_not_in_it() -> None:
    """The last of three steps has a loss that is not a number."""
    tokens = np.arange(16, dtype=np.int32)[None, None]
    ends: list[Any] = []
    for average in (None, {"ema": {"decay": 0.5}}):
        more: dict[str, Any] = {} if average is None else {"spec__average": average}
        program = program_of(
            spec__recovery__divergence={"nonFinite": "skip"}, spec__data__attendAcrossDocuments=True, **more
        )
        state = initial_state(program.build_state, program.template)
        with program.tracing():
            step = jax.jit(program.train_step)
            for number in range(3):
                if number == 2:
                    ends.append(state)
                weights = np.full(tokens.shape, np.nan if number == 2 else 1.0, np.float32)
                state, _ = step(state, batch_of(tokens, np.roll(tokens, -1), weights), jnp.zeros(1, jnp.int32))
        ends.append(state)
    plain, after_plain, averaged, after = ends
    assert same_bits((plain.model, plain.optimizer_state), (averaged.model, averaged.optimizer_state))
    assert same_bits(after_plain.model, after.model)
    assert same_bits(averaged.average, after.average)
    assert not same_bits(averaged.average.model, averaged.model)


def test_a_run_that_begins_with_a_state_without_an_average_begins_its_own() -> None:
    program = program_of(spec__average=EMA)
    plain = program_of()
    state = initial_state(plain.build_state, plain.template)
    found = with_new_average(program.average, program.template, state)
    assert found.average is not None
    assert int(found.average.count) == 0
    assert same_bits(found.average.model, state.model)


def same_bits(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in pairs)
