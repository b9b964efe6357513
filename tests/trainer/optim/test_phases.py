"""Schedules of phases: rates equal to Levanter's for the same settings, cycles, and refusals; weight decay, momentum
and batch size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from halcyon.optim import learning_rate, update_arguments
from halcyon_api.schedules import Cycle, cycles_of
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.schedule import PhasesScheduleSpec, Shape
from halcyon_api.spec.trainer import TrainerSpec
from tests.trainer.optim.levanter_settings import PEAK, SETTINGS, STEPS

RATES = json.loads((Path(__file__).parent / "levanter_rates.json").read_text())


def optimizer(phases: dict[str, Any], **others: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate({"learningRate": PEAK, "schedule": {"phases": phases}, "adamw": {}, **others})


def trainer(steps: int = STEPS, **fields: Any) -> TrainerSpec:
    return TrainerSpec.model_validate({"steps": steps, "batchSize": 8, "sequenceLength": 32, **fields})


def rates(phases: dict[str, Any], steps: int = STEPS) -> np.ndarray:
    rate = learning_rate(optimizer(phases), trainer(steps))
    return np.array(jax.jit(jax.vmap(rate))(jnp.arange(steps)))


@pytest.mark.parametrize("name", SETTINGS)
def test_rates_are_those_of_levanter(name: str) -> None:
    np.testing.assert_allclose(rates(SETTINGS[name][1]), RATES[name], rtol=2e-6, atol=5e-8)


def test_each_of_levanters_schedules_is_compared() -> None:
    assert RATES.keys() == SETTINGS.keys()
    compared = {phases.get("shape", "cosine") for _, phases in SETTINGS.values()}
    assert set(get_args(Shape)) - compared == {"squareRoot", "polynomial", "exponential", "inverseSquareRootDecay"}


def test_the_other_shapes_are_those_of_optax_and_of_their_paper() -> None:
    count, share = jnp.arange(STEPS), 0.2
    found = {shape: rates({"shape": shape, "minRatio": share}) for shape in ("polynomial", "exponential", "squareRoot")}
    np.testing.assert_allclose(
        found["polynomial"], optax.polynomial_schedule(PEAK, PEAK * share, 2.0, STEPS)(count), rtol=1e-5
    )
    np.testing.assert_allclose(found["exponential"], optax.exponential_decay(PEAK, STEPS, share)(count), rtol=1e-5)
    np.testing.assert_allclose(
        found["squareRoot"], PEAK * (1 - (1 - share) * np.sqrt(np.arange(STEPS) / STEPS)), rtol=1e-5
    )


@pytest.mark.parametrize(("fields", "constant"), [({}, 28.6), ({"scale": 3.0}, 3.0)])
def test_inverse_square_root_decay_is_that_of_levanters_later_versions(
    fields: dict[str, float], constant: float
) -> None:
    """``max(r, 1 / sqrt(1 + c t / T))`` of its ``inv_sqrt_decay``."""
    found = rates({"shape": "inverseSquareRootDecay", "minRatio": 0.25, "warmup": 10, **fields})[10:]
    t = np.arange(STEPS - 10)
    np.testing.assert_allclose(found, PEAK * np.maximum(0.25, (1 + constant * t / (STEPS - 10)) ** -0.5), rtol=1e-6)
    assert found[0] == PEAK


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"warmup": 0.5}, [Cycle(0, 100, 50, 50)]),
        ({"warmup": 10, "decay": 20}, [Cycle(0, 100, 10, 20)]),
        ({"cycles": 2, "warmup": 0.1, "decay": 0.2, "rewarmup": 5}, [Cycle(0, 50, 5, 10), Cycle(50, 50, 5, 10)]),
        ({"cycleLengths": [30, 60]}, [Cycle(0, 30, 0, 30), Cycle(30, 60, 0, 60), Cycle(90, 10, 0, 10)]),
        ({"cycleEnds": [30, 100]}, [Cycle(0, 30, 0, 30), Cycle(30, 70, 0, 70)]),
        ({"decay": 0, "warmup": 3}, [Cycle(0, 100, 3, 0)]),
    ],
)
def test_cycles(phases: dict[str, Any], expected: list[Cycle]) -> None:
    assert list(cycles_of(PhasesScheduleSpec.model_validate(phases), 100)) == expected


def test_weight_decay_and_momentum_follow_their_points() -> None:
    points = [
        {"at": 0, "momentum": 0.85},
        {"at": 0.25, "weightDecay": 1.0},
        {"at": 40, "momentum": 0.95},
        {"at": 1, "weightDecay": 0.0},
    ]
    at = update_arguments(optimizer({}, weightDecay=0.2, otherSchedules={"points": points}), 100)
    found = [
        {name: pytest.approx(float(value), abs=1e-6) for name, value in at(step).items()} for step in (0, 20, 70, 99)
    ]
    assert found == [
        {"weight_decay": 0.2, "momentum": 0.85},
        {"weight_decay": 0.2, "momentum": 0.90},
        {"weight_decay": 0.08, "momentum": 0.95},
        {"weight_decay": 0.2 / 75, "momentum": 0.95},
    ]
    assert not update_arguments(optimizer({}), 100)(0), (
        "a value without a schedule must stay a constant of the compiled program"
    )


@pytest.mark.parametrize(("rule", "factors"), [("linear", [1, 1, 2, 2, 4, 4]), ("sqrt", [1, 1, 2**0.5, 2**0.5, 2, 2])])
def test_the_rate_grows_with_the_batch(rule: str, factors: list[float]) -> None:
    entries = [
        {"fromStep": 2, "batchSize": 16},
        {"fromStep": 3, "sequenceLength": 16},
        {"fromStep": 4, "batchSize": 32},
    ]
    spec = optimizer({"shape": "constant"}, otherSchedules={"rateByBatchSize": rule})
    rate = learning_rate(spec, trainer(6, batchSchedule=entries))
    assert [float(rate(done)) for done in range(6)] == pytest.approx([PEAK * factor for factor in factors])
