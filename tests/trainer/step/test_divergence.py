"""Steps whose loss or gradient is not finite, or jumps: the update is dropped without a trace, or the run ends."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.host.errors import Diverged
from halcyon.optim import learning_rate
from halcyon.step.divergence import MOST_SKIPPED_IN_A_ROW, DivergenceWatch, Verdict, empty_window, judge
from halcyon.step.gradients import Gradients
from halcyon.step.objectives.objective import Batch, Sums
from halcyon.step.state import TrainState, initial_state
from halcyon.step.step import make_train_step
from halcyon_api.ends import FATAL_CODES, ExitCode
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.recovery import DivergenceSpec, SpikeSpec
from halcyon_api.spec.trainer import TrainerSpec
from tests.trainer.step.given import as_objective
from tests.trainer.step.test_program import program_of
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_of

SKIP = DivergenceSpec(non_finite="skip")
SPIKES = DivergenceSpec(non_finite="skip", spike=SpikeSpec(sigmas=4.0, window_steps=8))


@as_objective
def objective(model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
    """Squared distance of the only parameter from the only weight of the batch."""
    return Sums(jnp.sum((model["w"] - batch["weights"]) ** 2), jnp.float32(batch["weights"].size))


class Training:
    """A model of one number, with batches of one number."""

    def __init__(self, policy: DivergenceSpec) -> None:
        optimizer = optax.adam(0.01)
        model = {"w": jnp.zeros(())}
        mesh = mesh_of()
        self._step = jax.jit(
            make_train_step(Gradients(objective), optimizer, lambda step: jnp.float32(0.01), mesh, policy)
        )
        self.state = TrainState(jnp.zeros((), jnp.int32), model, optimizer.init(model), empty_window(policy))

    def step(self, target: float) -> Verdict:
        nothing = jnp.zeros((1, 1, 1), jnp.int32)
        batch = batch_of(nothing, nothing, jnp.full((1, 1, 1), target, jnp.float32))
        self.state, metrics = self._step(self.state, batch, jnp.zeros(1, jnp.int32))
        return Verdict(int(metrics.verdict))

    def bits(self, *, counts: bool = False) -> list[bytes]:
        state = self.state if counts else (self.state.model, self.state.optimizer_state)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_a_dropped_update_leaves_no_trace_but_the_step(bad: float) -> None:
    training = Training(SKIP)
    training.step(1.0)
    before = training.bits()
    assert training.step(bad) is Verdict.NON_FINITE
    assert training.bits() == before
    assert int(training.state.step) == 2
    assert training.step(1.0) is Verdict.HEALTHY
    assert training.bits() != before


SCHEDULES: list[dict[str, Any]] = [
    {"wsd": {"decaySteps": 4, "warmupSteps": 2}},
    {"cosine": {"warmupSteps": 2, "minRatio": 0.0}},
    {"cosine": {"warmupSteps": 2, "minRatio": 0.0, "decaySteps": 8}},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["wsd", "cosine", "cosine-until"])
@pytest.mark.parametrize(
    "dropped",
    [{1, 4, 5}, *(pytest.param(each, marks=[pytest.mark.slow, pytest.mark.variant]) for each in ({0}, {7, 8}))],
)
def test_after_dropped_updates_the_reported_rate_is_used_and_the_decay_ends(
    schedule: dict[str, Any], dropped: set[int]
) -> None:
    """Adam with both betas 0 moves a parameter by exactly the learning rate, against the gradient."""
    steps = 10
    common = {"learningRate": 0.25, "weightDecay": 0, "schedule": schedule}
    optimizer = {**common, "adamw": {"beta1": 0, "beta2": 0, "epsilon": 1e-30}}
    program = program_of(
        spec__optimizer=optimizer,
        spec__recovery__divergence={"nonFinite": "skip"},
        spec__trainer={"steps": steps, "batchSize": 1, "sequenceLength": 16},
        spec__data__attendAcrossDocuments=True,
    )
    expected = learning_rate(
        OptimizerSpec.model_validate(optimizer), TrainerSpec(steps=steps, batch_size=1, sequence_length=16)
    )
    with program.tracing():
        step = jax.jit(program.train_step)
    state = initial_state(program.build_state, program.template)
    tokens = np.arange(16, dtype=np.int32)[None, None]
    for number in range(steps):
        weights = np.full(tokens.shape, np.nan if number in dropped else 1.0, np.float32)
        before = np.asarray(state.model.norm.weight.array)
        with program.tracing():
            state, metrics = step(state, batch_of(tokens, np.roll(tokens, -1), weights), jnp.zeros(1, jnp.int32))
        moved = float(np.abs(np.asarray(state.model.norm.weight.array) - before).max())
        assert float(metrics.learning_rate) == pytest.approx(float(expected(number)), abs=1e-6)
        assert moved == pytest.approx(0.0 if number in dropped else float(metrics.learning_rate), abs=1e-6)
    assert int(state.step) == steps
    assert float(metrics.learning_rate) == pytest.approx(0.0, abs=1e-7)


def test_the_steps_are_counted_once() -> None:
    """Besides the step, the state counts only the gradients in the moments, for their bias correction."""
    counts = [leaf.path for leaf in flatten(program_of().template) if leaf.dtype.kind == "i"]
    assert counts == ["step", "optimizer_state.1.count"]


@pytest.mark.parametrize("policy", [DivergenceSpec(), DivergenceSpec(non_finite="ignore")])
def test_without_a_policy_that_drops_it_the_update_is_made(policy: DivergenceSpec) -> None:
    training = Training(policy)
    assert training.step(float("nan")) is Verdict.NON_FINITE
    assert np.isnan(training.state.model["w"])


def test_a_spike_is_far_above_the_window_and_does_not_enter_the_window() -> None:
    training = Training(SPIKES)
    noise = np.random.default_rng(0)
    for _ in range(7):
        assert training.step(1.0 + 0.05 * noise.normal()) is Verdict.HEALTHY
    assert training.step(30.0) is Verdict.HEALTHY, "the window is not full yet"
    for _ in range(8):
        training.step(1.0 + 0.05 * noise.normal())
    before = training.bits()
    remembered = np.asarray(training.state.losses.losses).tolist()
    assert training.step(30.0) is Verdict.SPIKE
    assert training.bits() == before
    assert np.asarray(training.state.losses.losses).tolist() == remembered
    assert training.step(float("nan")) is Verdict.NON_FINITE
    assert np.asarray(training.state.losses.losses).tolist() == remembered
    assert training.step(1.0) is Verdict.HEALTHY


def test_a_spike_of_the_gradient_norm_counts_if_the_rule_compares_norms() -> None:
    spike = SpikeSpec(sigmas=1000.0, gradient_norm_sigmas=4.0, window_steps=8)
    policy = DivergenceSpec(spike=spike)
    window = empty_window(policy)
    noise = np.random.default_rng(0)
    for _ in range(8):
        verdict, window = judge(
            policy, jnp.float32(1.0 + 0.05 * noise.normal()), jnp.float32(2.0 + 0.1 * noise.normal()), window
        )
        assert verdict == Verdict.HEALTHY
    assert window is not None
    verdict, after = judge(policy, jnp.float32(1.0), jnp.float32(9.0), window)
    assert verdict == Verdict.SPIKE
    assert jax.tree.all(jax.tree.map(lambda old, new: np.array_equal(old, new), window, after))
    assert judge(policy, jnp.float32(2.0), jnp.float32(2.0), window)[0] == Verdict.HEALTHY
    losses_only = empty_window(SPIKES)
    assert losses_only is not None
    assert losses_only.norms is None


def test_a_resumed_run_detects_spikes_like_an_uninterrupted_run() -> None:
    """The rules keep all their memory in the state: a new step function with this state continues bitwise."""
    targets = [1.0 + 0.05 * value for value in np.random.default_rng(1).normal(size=24)]
    targets[14], targets[19] = 40.0, float("nan")
    whole = Training(SPIKES)
    verdicts = [whole.step(target) for target in targets]
    assert (verdicts[14], verdicts[19]) == (Verdict.SPIKE, Verdict.NON_FINITE)
    first, second = Training(SPIKES), Training(SPIKES)
    again = [first.step(target) for target in targets[:12]]
    second.state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), first.state)
    again += [second.step(target) for target in targets[12:]]
    assert again == verdicts
    assert second.bits(counts=True) == whole.bits(counts=True)


def test_a_run_without_the_spike_rule_has_no_state_for_it() -> None:
    plain = program_of().template
    assert plain.losses is None
    ruled = program_of(spec__recovery__divergence={"spike": {"sigmas": 5.0, "windowSteps": 32}}).template
    assert len(jax.tree.leaves(ruled)) == len(jax.tree.leaves(plain)) + 2
    assert ruled.losses.losses.shape == (32,)


@pytest.mark.slow
def test_policies_do_not_change_the_bits_of_a_healthy_run() -> None:
    results = []
    tokens = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 64)).astype(np.int32)
    policies: tuple[dict[str, Any], ...] = (
        {"nonFinite": "ignore"},
        {"nonFinite": "stop"},
        {"nonFinite": "skip", "spike": {"sigmas": 50.0, "windowSteps": 8}},
    )
    for policy in policies:
        program = program_of(
            spec__recovery__divergence=policy, spec__trainer__sequenceLength=64, spec__data__attendAcrossDocuments=True
        )
        state = initial_state(program.build_state, program.template)
        step = program.compile_step(4, 64)
        control = jax.device_put(np.zeros(1, np.int32), program.control_sharding)
        losses = []
        for batch in tokens:
            parts = (
                jax.device_put(part, program.batch_sharding)
                for part in (batch, np.roll(batch, -1), np.ones(batch.shape, np.float32))
            )
            state, metrics = step(state, batch_of(*parts), control)
            losses.append(float(metrics.loss))
        results.append(
            (losses, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.model, state.optimizer_state))])
        )
    assert results[0] == results[1] == results[2]


def test_stop_names_the_step_its_numbers_and_the_fix() -> None:
    watch = DivergenceWatch(DivergenceSpec())
    assert watch.skipped(1, Verdict.HEALTHY, 2.0, 1.0, str) == ""
    with pytest.raises(Diverged) as stopped:
        watch.skipped(
            12,
            Verdict.NON_FINITE,
            float("nan"),
            float("inf"),
            lambda: "the last good checkpoint is that of step 10 (steps/10/)",
        )
    assert str(stopped.value) == (
        "the loss of step 12 is not a number and its gradient norm infinite; the last good checkpoint is that of step "
        "10 (steps/10/); check the data of this step, then resume with recovery.divergence.nonFinite: skip, or make a "
        "new run with a lower learning rate"
    )
    assert stopped.value.exit_code == ExitCode.DIVERGED == 86
    assert ExitCode.DIVERGED in FATAL_CODES


def test_too_many_dropped_updates_in_a_row_stop_the_run() -> None:
    watch = DivergenceWatch(SPIKES)
    for step in range(1, MOST_SKIPPED_IN_A_ROW):
        assert "more than 4 standard deviations above the 8 steps before" in watch.skipped(
            step, Verdict.SPIKE, 9.0, 1.0, str
        )
    with pytest.raises(Diverged, match=f"the updates of {MOST_SKIPPED_IN_A_ROW} steps in a row were dropped"):
        watch.skipped(MOST_SKIPPED_IN_A_ROW, Verdict.SPIKE, 9.0, 1.0, str)
    assert watch.skipped(100, Verdict.HEALTHY, 2.0, 1.0, str) == ""
    assert watch.skipped(101, Verdict.SPIKE, 9.0, 1.0, str)
