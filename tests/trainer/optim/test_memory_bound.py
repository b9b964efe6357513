"""The memory that the contract counts for a run is at most that of the real state and of the compiled step, for each
update rule.
"""

from __future__ import annotations

import functools

import haliax as hax
import jax
import pytest

from halcyon.models import CausalLM, build_model
from halcyon.optim.registry import RULES, build_optimizer
from halcyon.run.auto_tuning import traced_step
from halcyon_api.memory import least_need
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.optimizer import OptimizerSpec
from tests.api.documents import minimal_spec
from tests.trainer.models.cases import FAMILIES, shapes
from tests.trainer.support.meshes import mesh_of

WITH_FACTORS = ("soap", "soapMuon", "kron")
"""Their factors are as large as the sides of a matrix, so their real state is far above the bound."""


def deep() -> CausalLM:
    """Nearly all of its parameters are in hidden matrices."""
    spec = LlamaSpec(num_hidden_layers=8, hidden_size=256, intermediate_size=512, num_attention_heads=8)
    build = functools.partial(
        build_model, spec, hax.Axis("vocab", 64), hax.Axis("position", 8), dtype="float32", key=jax.random.key(0)
    )
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


CLASSES = OptimizerSpec.rule_classes()
CASES = [
    (rule, kind)
    for rule in RULES
    for kind in ("float32", "bfloat16", "float8")
    if kind == "float32" or not CLASSES[rule].wide_only
]
FIRST = [("adamw", "float32"), ("lion", "bfloat16"), ("adafactor", "float32")]


@pytest.mark.parametrize(
    ("rule", "kind"), [*FIRST, *(pytest.param(*case, marks=pytest.mark.variant) for case in CASES if case not in FIRST)]
)
def test_a_compiled_step_takes_at_least_the_bound(rule: str, kind: str) -> None:
    precision = {"moments": kind} | ({"momentsRounding": "stochastic"} if kind == "bfloat16" else {})
    trainer = {"steps": 10, "batchSize": 2, "sequenceLength": 8, "precision": precision}
    one = {"type": "cpu", "topology": "1x1"}
    spec = minimal_spec(spec__accelerator=one, spec__optimizer={rule: {}}, spec__trainer=trainer)
    step = traced_step(spec, 259, mesh_of()).compiled()
    assert step is not None
    needed = step.needed_bytes
    assert needed is not None
    assert least_need(spec, run_mesh(spec)).total_bytes <= needed
