"""The memory that the contract counts for the state of each update rule is at most that of the real state."""

from __future__ import annotations

import functools

import haliax as hax
import jax
import pytest

from halcyon.models import CausalLM, build_model
from halcyon.optim.registry import RULES, build_optimizer
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.model import ModelSpec
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.trainer.models.cases import FAMILIES, shapes

WITH_FACTORS = ("soap", "soapMuon", "kron")
"""Their factors are as large as the sides of a matrix, so their real state is far above the bound."""


def deep() -> CausalLM:
    """Nearly all of its parameters are in hidden matrices."""
    spec = ModelSpec(llama=LlamaSpec(layers=8, hidden_size=256, intermediate_size=512, heads=8))
    build = functools.partial(build_model, spec, hax.Axis("vocab", 64), hax.Axis("position", 8), dtype="float32", key=jax.random.key(0))
    return jax.eval_shape(build)


def moments(rule: str, model: CausalLM) -> float:
    """Values of the real state for each parameter."""
    state = jax.eval_shape(build_optimizer(OptimizerSpec.model_validate({rule: {}}), model).init, model)
    count = sum(leaf.size for leaf in jax.tree.leaves(state))
    return count / sum(leaf.size for leaf in jax.tree.leaves(model))


@pytest.mark.parametrize("rule", RULES)
def test_the_bound_is_at_most_the_real_state_and_near_it(rule: str) -> None:
    least, real = OptimizerSpec.model_validate({rule: {}}).least_moments, moments(rule, deep())
    assert least <= real
    assert rule in WITH_FACTORS or real < least + 0.05


@pytest.mark.variant
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_holds_for_the_parameters_of_every_family(family: str) -> None:
    model = shapes(FAMILIES[family])
    for rule in RULES:
        assert OptimizerSpec.model_validate({rule: {}}).least_moments <= moments(rule, model), rule
