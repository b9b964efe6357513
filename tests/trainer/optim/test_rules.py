"""The rules for single parameters against the algorithms of their papers, and their states on a mesh (matrices:
test_matrix_rules.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from halcyon.checkpoint.layout import flatten
from halcyon.optim import build_optimizer
from halcyon.optim.registry import RULES
from halcyon.parallel.axes import shardings
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.exactness.record import read
from tests.trainer.optim.page import PAGE, page
from tests.trainer.optim.papers import PAPERS, Case
from tests.trainer.optim.tiny import plain, tiny
from tests.trainer.support.meshes import mesh_of

STEPS = 20
DECAY = 0.2
RATES = [0.01 * min(1.0, (step + 1) / 4) * (1 - step / 40) for step in range(STEPS)]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PAPERS),
    ("adamw", {"cautious": True, "clipUpdate": 0.5}),
    ("adamw", {"correctedDecay": True}),
    ("sophia", {"estimator": "hutchinson", "everySteps": 3, "gamma": 2.0}),
]
FEW: list[tuple[str, dict[str, Any]]] = [("adafactor", {}), ("sophia", {})]
"""The cases that are no variants: rules whose state or arguments no other rule has."""


def spec_of(name: str, settings: dict[str, Any]) -> OptimizerSpec:
    return OptimizerSpec.model_validate_json(
        json.dumps({"learningRate": max(RATES), "weightDecay": DECAY, "maxGradientNorm": 0, name: settings})
    )


def trained(spec: OptimizerSpec, mesh: Mesh | None = None) -> tuple[Any, Any, list[Any], list[Any]]:
    """The model and the state after all steps, with the gradients and the estimates of curvature."""
    noise = np.random.default_rng(0)
    model, rule = tiny(noise), build_optimizer(spec, tiny(noise))
    gradients, estimates = (
        [tiny(noise) for _ in range(STEPS)],
        [jax.tree.map(np.abs, tiny(noise)) for _ in range(STEPS)],
    )

    def step(model: Any, state: Any, gradient: Any, estimate: Any, rate: jax.Array, done: jax.Array) -> Any:
        arguments = {"learning_rate": rate, "step": done, "curvature": lambda: estimate}
        changes, state = rule.update(gradient, state, model, **arguments)
        return jax.tree.map(jnp.add, model, changes), state

    placed = None if mesh is None else (shardings(model, mesh), shardings(jax.eval_shape(rule.init, model), mesh))
    if mesh is not None:
        model = jax.device_put(model, shardings(model, mesh))
    compiled = jax.jit(step, out_shardings=placed)
    state = jax.jit(rule.init, out_shardings=None if placed is None else placed[1])(model)
    for number in range(STEPS):
        model, state = compiled(
            model, state, gradients[number], estimates[number], jnp.float32(RATES[number]), jnp.int32(number)
        )
    return model, state, gradients, estimates


@pytest.mark.parametrize(
    ("name", "settings"), [pytest.param(*case, marks=[] if case in FEW else [pytest.mark.variant]) for case in CASES]
)
def test_twenty_steps_are_those_of_the_paper(
    name: str, settings: dict[str, Any], measured: Callable[..., None]
) -> None:
    spec = spec_of(name, settings)
    model, _, gradients, estimates = trained(spec)
    start = plain(tiny(np.random.default_rng(0)))
    by_step, by_estimate = [plain(one) for one in gradients], [plain(one) for one in estimates]
    cases = [
        Case(
            array,
            [each[number][1] for each in by_step],
            [each[number][1] for each in by_estimate],
            RATES,
            DECAY if role in ("matrix", "head") else 0.0,
            role,
        )
        for number, (role, array) in enumerate(start)
    ]
    wanted = PAPERS[name](spec.value, cases)
    for (role, found), expected in zip(plain(model), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=role)
    largest = max(
        float(np.abs(found - expected).max()) for (_, found), expected in zip(plain(model), wanted, strict=True)
    )
    measured("rule paper", " ".join([name, *settings]), largest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "adafactor" else [pytest.mark.variant]) for name in PAPERS]
)
def test_four_devices_train_like_one_and_share_the_state(name: str) -> None:
    spec = spec_of(name, {})
    alone, *_ = trained(spec)
    model, state, *_ = trained(spec, mesh_of(fsdp=2, tensor=2))
    for (role, found), (_, expected) in zip(plain(model), plain(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=role)
    parts = [leaf.size // leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state) if leaf.ndim]
    # Each factor of Adafactor has one of the two divided axes.
    assert max(parts) == (2 if name == "adafactor" else 4)


@pytest.mark.parametrize("name", RULES)
def test_arrays_of_a_state_have_axes_of_their_parameters_and_files_can_hold_them(name: str) -> None:
    model = tiny(np.random.default_rng(0))
    leaves = flatten(jax.eval_shape(build_optimizer(spec_of(name, {}), model).init, model))
    axes = {frozenset(leaf.axes) for leaf in flatten(model) if leaf.axes is not None}
    for leaf in leaves:
        own = set(leaf.axes or ()) - {"flat_inputs", "flat_outputs"}  # the second side of a square factor
        assert leaf.shape == () or any(own <= one for one in axes), leaf.path


def test_the_page_shows_the_recorded_figures_of_every_rule() -> None:
    text = page(read())
    assert PAGE.read_text(encoding="utf-8") == text, "run `python -m tests.trainer.optim.page`"
    assert set(RULES) <= {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
