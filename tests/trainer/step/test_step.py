"""Microbatches do not change the result: losses and gradients are weighted sums divided once."""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from halcyon.step.gradients import Gradients
from halcyon.step.in_step import InStep, StepView, reported
from halcyon.step.objectives.objective import Batch, Sums
from halcyon.step.state import TrainState
from halcyon.step.step import make_train_step
from tests.trainer.step.given import as_objective
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_of


@as_objective
def objective(model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
    """Squared error of a linear map, as a weighted sum.

    With segments, the expected value is the target plus the segment.
    """
    predicted = jnp.take(model["table"], batch["tokens"], axis=0)
    wanted = batch["targets"] + batch.get("segments", 0)
    squares = jnp.sum(batch["weights"] * (predicted - wanted) ** 2)
    return Sums(
        squares, jnp.sum(batch["weights"]), {"distance": jnp.sum(batch["weights"] * jnp.abs(predicted - wanted))}
    )


def one_step(
    microbatches: int, parameters: str = "float32", *, segments: bool = False, control: tuple[int, ...] = (0, 1)
) -> tuple[Any, Any]:
    """A step over eight examples with 2, 4, ... 16 weighted targets, where a mean of means would be wrong."""
    positions = 16
    random = np.random.default_rng(0)
    tokens = random.integers(0, 11, (8, positions)).astype(np.int32)
    targets = random.integers(0, 5, (8, positions)).astype(np.int32)
    weights = (np.arange(positions) < np.arange(2, 18, 2)[:, None]).astype(np.float32)
    documents = random.integers(0, 4, (8, positions)).astype(np.int32)
    arrays = (tokens, targets, weights, documents) if segments else (tokens, targets, weights)
    batch = batch_of(*(jnp.asarray(array).reshape(microbatches, -1, positions) for array in arrays))
    model = {"table": jnp.linspace(-1, 1, 11).astype(parameters)}
    optimizer = optax.sgd(1.0)
    mesh = mesh_of()
    step = make_train_step(Gradients(objective), optimizer, lambda step: jnp.float32(1.0), mesh)
    state = TrainState(step=jnp.zeros((), jnp.int32), model=model, optimizer_state=optimizer.init(model))
    return jax.jit(step)(state, batch, jnp.array(control))


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_microbatches_give_the_full_batch(microbatches: int, segments: bool) -> None:
    whole_state, whole = one_step(1, segments=segments)
    state, metrics = one_step(microbatches, segments=segments)
    assert float(metrics.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert float(metrics.gradient_norm) == pytest.approx(float(whole.gradient_norm), rel=1e-6)
    assert float(metrics.tokens) == float(whole.tokens) == 72
    assert float(metrics.metrics["distance"]) == pytest.approx(float(whole.metrics["distance"]), rel=1e-6)
    np.testing.assert_allclose(state.model["table"], whole_state.model["table"], rtol=1e-6)


def test_narrow_parameters_are_summed_wide_and_stay_narrow() -> None:
    whole, _ = one_step(1, "bfloat16")
    state, _ = one_step(8, "bfloat16")
    assert state.model["table"].dtype == whole.model["table"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(state.model["table"], np.float32), np.asarray(whole.model["table"], np.float32), rtol=0.02, atol=0.01
    )


def test_a_step_increases_the_step_count() -> None:
    state, _ = one_step(1)
    assert int(state.step) == 1


@pytest.mark.parametrize(
    ("control", "asked"), [((0, 0), 0), ((0, 1), 1), ((1, 2), 3), ((2, 1, 0, 2), 3), ((2, 0), 2), ((2, 1), 3)]
)
def test_a_request_of_any_process_reaches_all_processes(control: tuple[int, ...], asked: int) -> None:
    _, metrics = one_step(1, control=control)
    assert int(metrics.control) == asked


def test_stochastic_rounding_draws_other_numbers_in_each_step_and_the_same_in_a_repeated_one() -> None:
    @as_objective
    def pull(model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        return Sums(jnp.sum(model["w"].astype(jnp.float32)), jnp.float32(1.0))

    optimizer, model = optax.sgd(2.0**-10), {"w": jnp.ones(256, jnp.bfloat16)}
    batch, control = batch_of(*[jnp.zeros((1, 1, 1), jnp.int32)] * 3), jnp.zeros(1, jnp.int32)

    def after(step: int, seed: int = 0, stochastic: bool = True) -> np.ndarray:
        state = TrainState(jnp.int32(step), model, optimizer.init(model))
        train = make_train_step(
            Gradients(pull, seed), optimizer, lambda step: jnp.float32(1.0), mesh_of(), stochastic=stochastic
        )
        return np.asarray(jax.jit(train)(state, batch, control)[0].model["w"], np.float32)

    first = after(3)
    assert set(first) == {np.float32(1), np.float32(1 - 2**-8)}
    assert (after(3) == first).all()
    assert (after(4) != first).any()
    assert (after(3, seed=1) != first).any()
    assert (after(3, stochastic=False) == 1).all()


def test_each_microbatch_of_each_step_has_its_own_randomness() -> None:
    @as_objective
    def noisy(model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        assert key is not None
        return Sums(jnp.sum(model["w"] * jax.random.uniform(key)), jnp.float32(1.0))

    mesh = mesh_of()
    optimizer = optax.sgd(1.0)

    def gradient(step: int, microbatches: int, seed: int) -> float:
        state = TrainState(jnp.int32(step), {"w": jnp.zeros(())}, optimizer.init({"w": jnp.zeros(())}))
        nothing = jnp.zeros((microbatches, 1, 1), jnp.int32)
        train_step = make_train_step(Gradients(noisy, seed), optimizer, lambda step: jnp.float32(1.0), mesh)
        return float(jax.jit(train_step)(state, batch_of(nothing), jnp.zeros(1, jnp.int32))[0].model["w"])

    assert gradient(0, 1, 0) == gradient(0, 1, 0)
    assert (
        len({gradient(step, microbatches, seed) for step in (0, 1) for microbatches in (1, 2) for seed in (0, 1)}) == 8
    )


def norms(view: StepView) -> dict[str, jax.Array]:
    return {
        "pulled": optax.tree.norm(view.gradients),
        "moved": optax.tree.norm(view.updates),
        "share": view.loss / optax.tree.norm(view.parameters),
    }


def seen_steps(in_step: tuple[InStep, ...], steps: int = 4) -> tuple[Any, list[dict[str, Any]]]:
    """The last state, and the numbers of the functions in each step."""
    batch = batch_of(jnp.arange(8).reshape(1, 2, 4), jnp.ones((1, 2, 4), jnp.int32), jnp.ones((1, 2, 4)))
    optimizer = optax.sgd(0.5)
    step = jax.jit(
        make_train_step(Gradients(objective), optimizer, lambda step: jnp.float32(1.0), mesh_of(), in_step=in_step)
    )
    model = {"table": jnp.linspace(-1, 1, 11)}
    state = TrainState(step=jnp.zeros((), jnp.int32), model=model, optimizer_state=optimizer.init(model))
    found = []
    for number in range(1, steps + 1):
        state, metrics = step(state, batch, jnp.array((0, 0)))
        found.append(reported(in_step, jax.device_get(metrics.seen), number) | {"norm": float(metrics.gradient_norm)})
    return state, found


def test_a_function_inside_the_step_sees_gradients_and_updates_and_changes_nothing() -> None:
    plain, _ = seen_steps(())
    state, found = seen_steps((InStep(norms, every=2), InStep(lambda view: {"at": view.step})))
    np.testing.assert_array_equal(state.model["table"], plain.model["table"])
    assert [set(step) for step in found] == [{"at", "norm"}, {"at", "norm", "pulled", "moved", "share"}] * 2
    assert [step["at"] for step in found] == [1, 2, 3, 4]
    for step in found[1::2]:
        assert step["pulled"] == pytest.approx(step["norm"], rel=1e-6)
        assert step["moved"] == pytest.approx(0.5 * step["norm"], rel=1e-6)
        assert step["share"] > 0


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        (
            (InStep(lambda view: {"table": view.gradients["table"]}),),
            TypeError,
            r"in_step: table has the shape \(11,\)",
        ),
        ((InStep(norms), InStep(norms)), ValueError, "in_step: two numbers of a step have the name moved"),
        ((InStep(lambda view: {"distance": view.loss}),), ValueError, "have the name distance"),
    ],
)
def test_what_a_function_inside_the_step_must_return(
    wrong: tuple[InStep, ...], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        seen_steps(wrong, steps=1)


def test_no_update_rule_moves_the_rows_that_pad_the_vocabulary() -> None:
    def moved(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda leaf: jnp.ones_like(leaf), updates), state

    @as_objective
    def nothing(model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        return Sums(0.0 * jnp.sum(model["table"].array) + 0.0 * jnp.sum(model["scale"]), jnp.sum(batch["weights"]))

    model = {"table": hax.zeros((hax.Axis("embed", 3), hax.Axis("vocab", 8))), "scale": jnp.zeros(8)}
    rule = optax.GradientTransformation(lambda params: optax.EmptyState(), moved)
    step = jax.jit(make_train_step(Gradients(nothing), rule, lambda step: jnp.float32(1.0), mesh_of(), tokens=5))
    batch = batch_of(*(jnp.ones((1, 2, 4), dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)))
    state, _ = step(TrainState(jnp.zeros((), jnp.int32), model, rule.init(model)), batch, jnp.zeros(1, jnp.int32))
    np.testing.assert_array_equal(state.model["table"].array, np.broadcast_to(np.arange(8) < 5, (3, 8)))
    np.testing.assert_array_equal(state.model["scale"], 1)
