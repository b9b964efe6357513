"""Groups of parameters: their selection, their settings, and frozen ones."""

from __future__ import annotations

import json
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic.alias_generators import to_camel

from halcyon.commands.views.optimizer import overview
from halcyon.host.errors import BadConfiguration
from halcyon.models.axes import is_named
from halcyon.models.parameters import Role, split
from halcyon.optim import build_optimizer
from halcyon.optim.groups import check_groups, groups_of, paths, trained
from halcyon.optim.registry import RULES
from halcyon_api.reading import parse_run
from halcyon_api.spec.optimizer import OptimizerSpec, RoleName, RuleName
from halcyon_api.validation import find_problems
from tests.api.documents import document
from tests.trainer.models.cases import LLAMA, make, roles, shapes


def optimizer(*groups: dict[str, Any], **settings: Any) -> OptimizerSpec:
    return OptimizerSpec.model_validate_json(
        json.dumps({"adamw": {}, "maxGradientNorm": 0, **settings, "groups": list(groups)})
    )


def changes(spec: OptimizerSpec, model: Any, rate: float = 0.1) -> dict[str, np.ndarray]:
    rule = build_optimizer(spec, model)
    gradients = jax.tree.map(jnp.ones_like, model)
    found = jax.jit(lambda model: rule.update(gradients, rule.init(model), model, learning_rate=jnp.float32(rate))[0])(
        model
    )
    flat = jax.tree_util.tree_leaves_with_path(found, is_leaf=is_named)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf.array) for path, leaf in flat}


def roles_of(model: Any) -> list[str]:
    return [one.value for one in jax.tree.leaves(roles(model))]


def test_a_group_has_its_own_rate_decay_and_rule() -> None:
    model = make(LLAMA)
    plain = changes(optimizer(weightDecay=0.0), model)
    found = changes(
        optimizer(
            {"match": "*.attention.*", "learningRate": 0.5},
            {"roles": ["embedding"], "weightDecay": 2.0},
            {"match": "*.mlp.*", "rule": "lion"},
            weightDecay=0.0,
        ),
        model,
    )
    weights = dict(zip(paths(model), jax.tree.leaves(model), strict=True))
    for path, change in found.items():
        if ".attention." in path:
            np.testing.assert_allclose(change, 0.5 * plain[path], rtol=1e-6)
        elif path.startswith("embedding"):
            np.testing.assert_allclose(
                change, plain[path] - 0.1 * 2.0 * np.asarray(weights[path]), rtol=1e-5, atol=1e-7
            )
        elif ".mlp." in path:
            np.testing.assert_array_equal(change, np.full_like(change, -0.1))
        else:
            np.testing.assert_allclose(change, plain[path], rtol=1e-6)


def test_frozen_parameters_have_no_state_and_no_change() -> None:
    model = make(LLAMA)
    spec = optimizer({"match": "*.attention.*", "frozen": True})
    part = split(model, trained(spec, model))[0]
    moments = [leaf for leaf in jax.tree.leaves(build_optimizer(spec, part).init(part)) if leaf.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(part)) < 2 * len(jax.tree.leaves(model))
    assert set(changes(spec, part)) == {path for path in paths(model) if ".attention." not in path}


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            [{"match": "*.atention.*"}],
            r"spec\.optimizer\.groups\[0\]: no parameter has match \*\.atention\.\*; the paths are such as ",
        ),
        ([{"match": "*", "roles": ["router"]}], r"no parameter has match \* and roles router"),
        ([{"match": "*.atention.*", "frozen": True}], r"no parameter has match \*\.atention"),
        (
            [{"match": "*.query.*"}, {"match": "*.attention.*"}],
            r"groups\[1\]: .*query\.weight is also in groups\[0\] \(match \*\.query\.\*\)",
        ),
    ],
)
def test_a_selection_without_a_parameter_or_with_one_of_another_group_is_rejected(
    groups: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(BadConfiguration, match=sentence):
        check_groups(LLAMA, optimizer(*groups), None)


def test_a_run_that_trains_nothing_is_rejected() -> None:
    with pytest.raises(BadConfiguration, match="all parameters are frozen"):
        trained(optimizer({"match": "*", "frozen": True}), shapes(LLAMA))


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ({"learningRate": 2.0}, "needs match or roles"),
        ({"match": "*", "frozen": True, "weightDecay": 0.0}, "a frozen group is not updated"),
    ],
)
def test_a_group_without_a_selection_or_with_settings_that_have_no_effect_is_rejected(
    group: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        optimizer(group)


def test_the_overview_shows_groups_rules_and_bytes_of_the_state() -> None:
    model = shapes(LLAMA)
    spec = optimizer(
        {"match": "*.mlp.*", "frozen": True},
        {"roles": ["embedding"], "rule": "lion", "learningRate": 0.1, "weightDecay": 0.5},
    )
    flags = trained(spec, model)
    state = jax.eval_shape(build_optimizer(spec, split(model, flags)[0]).init, split(model, flags)[0])
    rows = {row.path: row for row in overview(spec, model, state, flags)}
    assert list(rows) == paths(model)
    sizes = dict(zip(paths(model), (leaf.size for leaf in jax.tree.leaves(model)), strict=True))
    for path, row in rows.items():
        if ".mlp." in path:
            assert (row.group, row.rule, row.rate_factor, row.weight_decay, row.state_bytes) == (
                "groups[0]",
                "frozen",
                0.0,
                0.0,
                0,
            )
        elif row.role == "embedding":
            assert (row.group, row.rule, row.rate_factor, row.weight_decay) == ("groups[1]", "lion", 0.1, 0.5)
            assert row.state_bytes == 4 * sizes[path]
        else:
            assert (row.group, row.rule, row.rate_factor) == ("rest", "adamw", 1.0)
            assert row.state_bytes == 8 * sizes[path]


def test_a_group_has_its_own_betas_and_epsilon() -> None:
    model = make(LLAMA)
    plain = changes(optimizer(adamw={"beta1": 0.7, "beta2": 0.6, "epsilon": 10.0}, weightDecay=0.0), model)
    found = changes(
        optimizer(
            {"match": "*.attention.*", "beta1": 0.7, "beta2": 0.6, "epsilon": 10.0},
            {"match": "*.mlp.*", "rule": "adopt", "epsilon": 10.0},
            weightDecay=0.0,
        ),
        model,
    )
    other = changes(optimizer({"match": "*.mlp.*", "rule": "adopt"}, weightDecay=0.0), model)
    for path, change in found.items():
        assert np.array_equal(change, plain[path]) == (".attention." in path), path
        assert np.array_equal(change, other[path]) == (".attention." not in path), path


@pytest.mark.parametrize(
    ("group", "field", "sentence"),
    [
        ({"beta1": 0.9}, "beta1", "muon takes no beta1; leave beta1 out, or choose another rule"),
        (
            {"rule": "adafactor", "beta2": 0.5},
            "beta2",
            "adafactor takes no beta2; leave beta2 out, or choose another rule",
        ),
    ],
)
def test_a_setting_that_the_rule_of_the_group_does_not_take_is_rejected(
    group: dict[str, Any], field: str, sentence: str
) -> None:
    run = document(
        spec__optimizer={"muon": {}, "groups": [{"match": "*.attention.*", **group}]}, spec__trainer__precision={}
    )
    spec = parse_run(run).spec
    assert [str(problem) for problem in find_problems(spec)] == [f"spec.optimizer.groups[0].{field}: {sentence}"]
    with pytest.raises(BadConfiguration, match=rf"groups\[0\]\.{field}: {sentence}"):
        groups_of(spec.optimizer, shapes(LLAMA))


def test_schedules_of_decay_and_momentum_are_those_of_the_rule_of_the_run() -> None:
    model = make(LLAMA)
    groups = [
        {"match": "*.attention.*", "weightDecay": 0.4},
        {"match": "*.mlp.*", "beta1": 0.5},
        {"roles": ["embedding"], "rule": "adamw", "beta1": 0.5, "weightDecay": 0.4},
    ]
    spec = OptimizerSpec.model_validate(
        {"muonAdamw": {}, "weightDecay": 0.2, "maxGradientNorm": 0.0, "groups": [groups[0], groups[2]]}
    )
    rest, attention, embedding = groups_of(spec, model)
    assert (rest.decay_follows, attention.decay_follows, embedding.decay_follows) == (True, True, False)
    assert (rest.momentum_follows, attention.momentum_follows, embedding.momentum_follows) == (True, True, False)
    rest, mlp = groups_of(optimizer(groups[1]), model)
    assert (mlp.decay_follows, mlp.momentum_follows, rest.momentum_follows) == (True, False, True)
    rule = build_optimizer(spec, model)
    gradients = jax.tree.map(jnp.ones_like, model)

    @jax.jit
    def changed(decay: Any, momentum: Any) -> Any:
        arguments = {"learning_rate": 0.1, "weight_decay": decay, "momentum": momentum}
        return rule.update(gradients, rule.init(model), model, **arguments)[0]

    usual, scheduled = map(jax.tree.leaves, (changed(0.2, 0.95), changed(0.1, 0.5)))
    differ = [not jnp.array_equal(one, other) for one, other in zip(usual, scheduled, strict=True)]
    assert differ == [role == "matrix" for role in roles_of(model)]


def test_a_group_of_matrices_shares_their_settings() -> None:
    spec = optimizer({"match": "*.mlp.*", "rule": "muon"}, matrices={"iterations": 1, "coefficients": "quintic"})
    model = make(LLAMA)
    few = changes(spec, model)
    many = changes(optimizer({"match": "*.mlp.*", "rule": "muon"}), model)
    differing = {path for path in few if not np.array_equal(few[path], many[path])}
    assert differing == {path for path in paths(model) if ".mlp." in path}


@pytest.mark.parametrize(
    ("optimizer", "decay"),
    [
        ({"lion": {}}, "0.99"),
        ({"muon": {"momentum": 0.98}}, "0.98"),
        ({"adamw": {}, "groups": [{"match": "*embed*", "beta2": 0.999}]}, "0.999"),
        ({"muon": {}}, None),
    ],
)
def test_a_slow_decay_of_any_rule_is_refused_in_bfloat16(optimizer: dict[str, Any], decay: str | None) -> None:
    def problems(**precision: str) -> list[str]:
        run = document(spec__optimizer=optimizer, spec__trainer__precision={"moments": "bfloat16", **precision})
        return [str(problem) for problem in find_problems(parse_run(run).spec)]

    assert problems(momentsRounding="stochastic") == []
    found = problems()
    assert [f"has {decay};" in sentence for sentence in found] == ([] if decay is None else [True]), found


def test_a_rule_that_needs_float32_is_refused_in_a_narrow_type() -> None:
    run = document(
        spec__optimizer={"adamw": {}, "groups": [{"match": "*", "rule": "adopt"}]}, spec__trainer__precision={}
    )
    assert not find_problems(parse_run(run).spec)
    run = document(
        spec__optimizer={"adamw": {}, "groups": [{"match": "*", "rule": "mars"}]},
        spec__trainer__precision={"moments": "bfloat16"},
    )
    assert [str(problem) for problem in find_problems(parse_run(run).spec)] == [
        "spec.trainer.precision.moments: the update rule mars stores its moments in float32; use float32",
    ]


def test_every_rule_has_a_function_and_a_name_for_groups() -> None:
    kinds = {to_camel(kind) for kind in OptimizerSpec.kinds()}
    assert kinds == set(RULES) == set(get_args(RuleName))
    assert {role.value for role in Role} == set(get_args(RoleName))


def test_groups_do_not_change_the_rest_and_the_document_of_a_run_without_them() -> None:
    assert "groups" not in OptimizerSpec.model_validate_json('{"adamw": {}}').document()
    model = shapes(LLAMA)
    (rest,) = groups_of(OptimizerSpec.model_validate_json('{"adamw": {}}'), model)
    assert len(jax.tree.leaves(rest.parameters)) == len(jax.tree.leaves(roles(model)))
