"""Muon beside AdamW in groups.

`tests/trainer/models/test_nanochat.py` compares its steps with those of the original.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.commands.dial import Choices, adamw_groups, dial, document
from halcyon.optim import build_optimizer, learning_rate
from halcyon.optim.schedules import update_arguments
from halcyon.parallel.axes import shardings
from halcyon.parallel.partition import computing
from halcyon_api.local_roots import with_root_addresses
from halcyon_api.reading import parse_run
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.models.cases import FAMILIES, make, shapes
from tests.trainer.models.reference import named_leaves
from tests.trainer.support.meshes import mesh_from

FIGURES = json.loads((Path(__file__).parents[1] / "commands" / "nanochat_figures.json").read_text())


def optimizer_of(*groups: dict[str, Any]) -> OptimizerSpec:
    return OptimizerSpec.model_validate(
        {"learningRate": 0.02, "weightDecay": 0.3, "muonAdamw": {}, "groups": list(groups)}
    )


def test_each_parameter_has_the_state_of_its_group() -> None:
    model = shapes(FAMILIES["nanochat"])
    state: Any = jax.eval_shape(
        build_optimizer(optimizer_of(*adamw_groups(24, 0.02, embedding=0.3, head=0.008, scalar=0.5)), model).init, model
    )
    of_matrices, of_groups = state[1]["0"].matrices, state[1]
    assert set(named_leaves(of_groups["3"].mu)) == {"valued_blocks/values/table/weight"}
    assert set(named_leaves(of_groups["6"].mu)) == {"smear/gate/weight", "smear/factor"}
    assert not named_leaves(of_groups["0"].others.mu), "each of the other parameters is in a group"
    squares = {path: tuple(axis.name for axis in leaf.axes) for path, leaf in named_leaves(of_matrices.squares).items()}
    assert squares["valued_blocks/mlp/up/weight"] == ("layers", "mlp"), "more outputs than inputs"
    assert squares["valued_blocks/mlp/down/weight"] == ("layers", "mlp"), "more inputs than outputs"
    assert "valued_blocks/values/gate/weight" in squares


@pytest.mark.parametrize("figures", FIGURES[:2], ids=["d4", "d12"])
def test_the_schedules_of_the_document_are_those_of_the_original(figures: dict[str, Any]) -> None:
    """The fall of the rate begins, and ends, one step earlier than in the original: the last step has the last rate."""
    spec = parse_run(with_root_addresses(document(dial(Choices(figures["depth"]))))).spec
    steps, optimizer = spec.trainer.steps, spec.optimizer
    rate, arguments = learning_rate(optimizer, spec.trainer), update_arguments(optimizer, steps)
    for step, factor, momentum, decay in figures["at"]:
        assert float(rate(step)) / optimizer.learning_rate == pytest.approx(factor, abs=1.0 / round(0.65 * steps))
        found = arguments(step)
        assert float(found["momentum"]) == pytest.approx(momentum, abs=1e-5)
        assert float(found["weight_decay"]) == pytest.approx(decay, rel=1e-4, abs=1e-6 * optimizer.weight_decay)


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("on", ["fsdp 4 x tensor 2", "data 2 x fsdp 2"])
def test_a_mesh_gives_the_same_update(on: str) -> None:
    model = make(FAMILIES["nanochat"])
    noise = np.random.default_rng(4)
    gradient: Any = jax.tree.map(lambda one: jnp.asarray(noise.standard_normal(one.shape), jnp.float32), model)
    optimizer = build_optimizer(optimizer_of({"match": "*.values.table.*", "learningRate": 3.0}), model)

    def update(model: Any, gradient: Any) -> Any:
        return optimizer.update(gradient, optimizer.init(model), model, learning_rate=0.02, momentum=0.9)[0]

    expected, mesh = jax.jit(update)(model, gradient), mesh_from(on)
    placed = shardings(model, mesh)
    with computing(mesh):
        found = jax.jit(update, in_shardings=(placed, placed), out_shardings=placed)(
            *jax.device_put((model, gradient), (placed, placed))
        )
    for path, leaf in named_leaves(expected).items():
        ours = np.asarray(named_leaves(found)[path].array)
        np.testing.assert_allclose(ours, leaf.array, atol=1e-4 * np.abs(leaf.array).max(), err_msg=path)
