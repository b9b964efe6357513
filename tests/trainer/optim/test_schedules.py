"""Learning rate schedules, as a table of rates by step, and as phases; the shapes and cycles of phases:
``test_phases.py``.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.optim import learning_rate
from halcyon_api.edits.steps import settled_steps
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.rules import AdamWSpec
from halcyon_api.spec.schedule import ConstantScheduleSpec, CosineScheduleSpec, ScheduleSpec, WsdScheduleSpec
from halcyon_api.spec.trainer import TrainerSpec

CONSTANT = ScheduleSpec(constant=ConstantScheduleSpec(warmup_steps=4))
STEADY = ScheduleSpec(constant=ConstantScheduleSpec())
COSINE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=4, min_ratio=0.1))
COLD_COSINE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=0, min_ratio=0.0))
ABSOLUTE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=4, decay_steps=8))
WSD = ScheduleSpec(wsd=WsdScheduleSpec(warmup_steps=4, decay_steps=4, min_ratio=0.2))
LATE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=12))


def rate(schedule: ScheduleSpec, steps: int = 12):
    settings = TrainerSpec(steps=steps, batch_size=8, sequence_length=32)
    return learning_rate(OptimizerSpec(learning_rate=0.8, schedule=schedule, adamw=AdamWSpec()), settings)


@pytest.mark.parametrize(
    ("schedule", "done", "share"),
    [
        (CONSTANT, 0, 0.25),
        (CONSTANT, 1, 0.5),
        (CONSTANT, 3, 1.0),
        (CONSTANT, 4, 1.0),
        (CONSTANT, 11, 1.0),
        (STEADY, 0, 1.0),
        (COSINE, 0, 0.25),
        (COSINE, 3, 1.0),  # the last step of the warm-up has the peak rate
        (COSINE, 7, 0.55),  # half-way down: (1 + 0.1) / 2
        (COSINE, 11, 0.1),  # the last step has the least rate
        (COSINE, 40, 0.1),
        (COLD_COSINE, 5, 0.5),
        (COLD_COSINE, 11, 0.0),
        (LATE, 0, 1 / 12),
        (LATE, 11, 1.0),
        (ABSOLUTE, 5, 0.55),
        (ABSOLUTE, 7, 0.1),  # the eighth step has the least rate, and all after it
        (ABSOLUTE, 11, 0.1),
        (WSD, 0, 0.25),
        (WSD, 3, 1.0),
        (WSD, 7, 1.0),  # the last step before the decay
        (WSD, 9, 0.6),  # half-way down
        (WSD, 11, 0.2),
    ],
)
def test_rate_of_a_step(schedule: ScheduleSpec, done: int, share: float):
    assert float(rate(schedule)(done)) == pytest.approx(0.8 * share, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("schedule", "same"), [(STEADY, 40), (ABSOLUTE, 40), (COSINE, 4), (WSD, 8)])
def test_steps_that_are_settled_have_bitwise_the_same_rate_in_a_longer_run(schedule: ScheduleSpec, same: int):
    assert settled_steps(OptimizerSpec(schedule=schedule, adamw=AdamWSpec()), 12) in (same, None)
    short, long = rate(schedule, 12), rate(schedule, 50)
    assert [float(short(done)) for done in range(same)] == [float(long(done)) for done in range(same)]
    assert same == 40 or float(short(same)) != float(long(same))


def formula(schedule: ScheduleSpec, steps: int, peak: float):
    """The rates of a schedule in absolute steps, as one formula of the number of the step."""
    given: Any = schedule.value
    warmup, least = given.warmup_steps, getattr(given, "min_ratio", 1.0)

    def at(done: jax.Array) -> jax.Array:
        number = done.astype(jnp.float32) + 1.0
        if schedule.kind == "constant":
            share = jnp.ones_like(number)
        elif schedule.kind == "cosine":
            progress = jnp.clip((number - warmup) / max(1, (given.decay_steps or steps) - warmup), 0.0, 1.0)
            share = least + (1.0 - least) * 0.5 * (1.0 + jnp.cos(math.pi * progress))
        else:
            share = 1.0 - (1.0 - least) * jnp.clip((number - (steps - given.decay_steps)) / given.decay_steps, 0.0, 1.0)
        return peak * jnp.where(number < warmup, number / max(1, warmup), share)

    return at


@pytest.mark.parametrize("steps", [300, 451])
@pytest.mark.parametrize(
    "schedule",
    [
        {"constant": {"warmupSteps": 7}},
        {"cosine": {"warmupSteps": 1, "minRatio": 0}},
        {"cosine": {"warmupSteps": 40, "minRatio": 0.37}},
        {"cosine": {"warmupSteps": 300}},
        {"cosine": {"warmupSteps": 13, "decaySteps": 211}},
        {"wsd": {"warmupSteps": 23, "decaySteps": 100, "minRatio": 0.1}},
    ],
    ids=str,
)
def test_a_spelling_has_bitwise_the_rates_of_its_formula(schedule: dict[str, object], steps: int):
    """A run that goes on with another version, or with more steps, needs the same bits."""
    spec, done = ScheduleSpec.model_validate(schedule), jnp.arange(steps + 20)
    ours, expected = (
        np.asarray(jax.jit(jax.vmap(curve))(done)) for curve in (rate(spec, steps), formula(spec, steps, 0.8))
    )
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(
        [rate(spec, steps)(place) for place in done[::50]], [formula(spec, steps, 0.8)(place) for place in done[::50]]
    )


def test_a_warm_up_from_the_start_of_the_curve_has_bitwise_the_rates_of_its_formula():
    spec, done = ScheduleSpec.model_validate({"phases": {"shape": "constant", "warmup": 100}}), jnp.arange(100)
    expected = jax.jit(jax.vmap(lambda number: 0.8 * number.astype(jnp.float32) / 100))(done)
    np.testing.assert_array_equal(jax.jit(jax.vmap(rate(spec, 300)))(done), expected)


@pytest.mark.parametrize(
    ("spelling", "phases"),
    [
        ({"constant": {"warmupSteps": 4}}, {"shape": "constant", "warmup": 4}),
        ({"cosine": {"warmupSteps": 4}}, {"shape": "cosine", "warmup": 4}),
        (
            {"wsd": {"warmupSteps": 4, "decaySteps": 5, "minRatio": 0.2}},
            {"shape": "linear", "warmup": 4, "decay": 5, "minRatio": 0.2},
        ),
    ],
)
def test_each_schedule_is_a_spelling_of_phases(spelling: dict[str, object], phases: dict[str, object]):
    one_on, at_start = (
        ScheduleSpec.model_validate({"phases": phases | {"firstRate": first}}) for first in ("afterOneStep", "atStart")
    )
    done = jnp.arange(12)
    rates = [
        np.asarray(jax.vmap(rate(schedule))(done))
        for schedule in (ScheduleSpec.model_validate(spelling), one_on, at_start)
    ]
    np.testing.assert_array_equal(rates[0], rates[1])
    assert rates[1][:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[2][:5] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(rates[1][:-1], rates[2][1:], rtol=1e-6)


def test_each_cycle_reaches_its_last_rate_with_a_first_rate_after_one_step():
    cycles = {"shape": "linear", "minRatio": 0.5, "cycles": 2, "rewarmup": 2, "firstRate": "afterOneStep"}
    rates = [float(rate(ScheduleSpec.model_validate({"phases": cycles}), 8)(done)) / 0.8 for done in range(8)]
    assert rates == pytest.approx([0.875, 0.75, 0.625, 0.5, 0.75, 1.0, 0.75, 0.5])


def test_rate_falls_without_a_jump():
    rates = [float(rate(COSINE, 50)(done)) for done in range(50)]
    assert rates[:4] == sorted(rates[:4])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert max(abs(b - a) for a, b in itertools.pairwise(rates[4:])) < 0.05


def test_rate_can_be_traced_and_is_a_function_of_the_step_alone():
    traced = jax.jit(rate(COSINE))
    assert float(traced(jnp.int32(7))) == float(traced(jnp.int32(7)))
    assert traced(jnp.int32(0)).dtype == jnp.float32
    assert traced(jnp.int32(0)).shape == ()
