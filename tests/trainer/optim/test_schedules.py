"""Learning rate schedules, as a table of rates by step."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from halcyon.optim import learning_rate
from halcyon_api.edits.steps import settled_steps
from halcyon_api.spec.optimizer import AdamWSpec, OptimizerSpec
from halcyon_api.spec.schedule import ConstantScheduleSpec, CosineScheduleSpec, ScheduleSpec, WsdScheduleSpec

CONSTANT = ScheduleSpec(constant=ConstantScheduleSpec(warmup_steps=4))
STEADY = ScheduleSpec(constant=ConstantScheduleSpec())
COSINE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=4, min_ratio=0.1))
COLD_COSINE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=0, min_ratio=0.0))
ABSOLUTE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=4, decay_steps=8))
WSD = ScheduleSpec(wsd=WsdScheduleSpec(warmup_steps=4, decay_steps=4, min_ratio=0.2))
LATE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=12))


def rate(schedule: ScheduleSpec, steps: int = 12):
    return learning_rate(OptimizerSpec(learning_rate=0.8, schedule=schedule, adamw=AdamWSpec()), steps)


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
