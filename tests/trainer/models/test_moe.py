"""A mixture of experts equals the dense computation of all experts, on one device and on a mesh, however uneven the
load is.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import Axis
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.models.axes import is_named
from halcyon.models.design import LayersInit, Mixture, plain_design
from halcyon.models.parts import dispatch, grouped_product
from halcyon.models.parts.experts import silu_gate
from halcyon.models.parts.moe import MixtureOfExperts, RouterLosses, reported
from halcyon.models.parts.routing import Routing, at_experts, balance, choose
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, constrain, shardings
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.families.experts import ExpertSizes
from halcyon_api.spec.mesh import ResolvedMesh
from tests.trainer.models.dense_experts import dense_mixture
from tests.variants import few_of

ROWS, LENGTH, EMBED, MLP, EXPERTS = 8, 4, 8, 4, 8

MIXTRAL = Routing(2)
QWEN = Routing(3, normalised=False)
DEEPSEEK = Routing(3, "sigmoid", scale=2.5, groups=4, kept_groups=2)


def make(
    routing: Routing, *, bias: bool = False, shared: bool = False, experts: int = EXPERTS, seed: int = 0
) -> MixtureOfExperts:
    """A mixture with random weights, biases and correction."""
    sizes = ExpertSizes(experts, 0, MLP, (), MLP if shared else 0, bias=bias, correction=routing.groups > 1)
    keys, plain = iter(jax.random.split(jax.random.key(seed), 8)), plain_design(1, EMBED, 1, 1, 1e-5, 0.5, "silu")
    design = dataclasses.replace(plain, sizes=dataclasses.replace(plain.sizes, gated=True, mlp_bias=False))
    stacked = Mixture(sizes, routing, RouterLosses(0.0, 0.0), silu_gate).init(
        LayersInit(design, Axis("layers", 1), jnp.dtype("float32"), keys)
    )
    made = jax.tree.map(lambda x: x["layers", 0], stacked, is_leaf=is_named)
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.asarray(noise.standard_normal(leaf.shape), leaf.dtype), made)


def tokens(seed: int = 0) -> hax.NamedArray:
    return hax.named(
        jnp.asarray(np.random.default_rng(seed).standard_normal((ROWS, LENGTH, EMBED)), jnp.float32),
        ("batch", "position", "embed"),
    )


def skewed(moe: MixtureOfExperts, x: hax.NamedArray, offsets: Any) -> tuple[MixtureOfExperts, hax.NamedArray]:
    """The mixture and the tokens, with a number added to the logit of each expert for all tokens: their first feature
    is 1.
    """
    weight = moe.router.weight
    added = hax.named(weight.array.at[0].add(jnp.asarray(offsets, jnp.float32)), weight.axes)
    return eqx.tree_at(lambda moe: moe.router.weight, moe, added), hax.named(x.array.at[..., 0].set(1.0), x.axes)


def weighted(out: jax.Array) -> jax.Array:
    """A scalar that depends on each output in another way."""
    return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))


@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def found(moe: MixtureOfExperts, x: hax.NamedArray) -> tuple[jax.Array, jax.Array]:
    out = moe(x)[0].rearrange(x.axes).array
    return weighted(out), out


found_alone = jax.jit(found)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
def expected(moe: MixtureOfExperts, x: hax.NamedArray) -> tuple[jax.Array, jax.Array]:
    routing = moe.router.routing
    out = dense_mixture(moe, x.array.reshape(-1, EMBED), routing.groups, routing.kept_groups).reshape(x.array.shape)
    return weighted(out), out


def assert_near(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(other).max())))


KINDS = {
    "mixtral": (MIXTRAL, {}),
    "qwen": (QWEN, {}),
    "gpt-oss": (Routing(2), {"bias": True}),
    "deepseek": (DEEPSEEK, {"shared": True}),
}


@pytest.mark.parametrize("kind", few_of(KINDS, ["mixtral", "deepseek"]))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), busy=st.integers(0, EXPERTS), much=st.sampled_from([0.0, 3.0, 50.0]))
def test_values_and_gradients_are_those_of_all_experts_computed_for_all_tokens(
    kind: str, seed: int, busy: int, much: float
) -> None:
    """`busy` experts get nearly all tokens, the others few or none."""
    routing, options = KINDS[kind]
    moe, x = skewed(make(routing, seed=seed, **options), tokens(seed), np.where(np.arange(EXPERTS) < busy, much, 0.0))
    assert_near(found_alone(moe, x), expected(moe, x))


@pytest.mark.parametrize("busy", [1, 3, 5])
def test_the_kernel_for_gpus_has_the_same_values_and_gradients(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Pallas' interpreter; `busy` experts get nearly all tokens, and some experts get none."""
    monkeypatch.setattr(grouped_product, "_best", lambda target: "kernel")
    moe, x = skewed(make(MIXTRAL), tokens(), np.where(np.arange(EXPERTS) < busy, 50.0, 0.0))
    by_kernel = jax.jit(
        lambda moe, x: found(moe, x)
    )  # a function of its own, so that no trace of another implementation is kept
    assert "pallas_call" in str(jax.make_jaxpr(lambda moe, x: found(moe, x))(moe, x))
    assert_near(by_kernel(moe, x), expected(moe, x))


def test_a_token_with_one_expert_gets_its_output_alone() -> None:
    moe = make(Routing(1))
    (_, out), _ = found_alone(moe, tokens())
    experts = choose(moe.router.logits(tokens()).array, moe.router.routing).experts
    flat = tokens().array.reshape(-1, EMBED)
    for token, expert in enumerate(np.asarray(experts).ravel()):
        weight = [each.array[expert] for each in (moe.experts.gate, moe.experts.up, moe.experts.down)]
        wanted = (jax.nn.silu(flat[token] @ weight[0]) * (flat[token] @ weight[1])) @ weight[2]
        np.testing.assert_allclose(out.reshape(-1, EMBED)[token], wanted, atol=1e-5)


MESHES = [
    pytest.param(ResolvedMesh(replica=1, data=1, fsdp=1, expert=8, tensor=1), id="expert-8", marks=pytest.mark.variant),
    pytest.param(
        ResolvedMesh(replica=1, data=1, fsdp=2, expert=4, tensor=1), id="fsdp-expert", marks=pytest.mark.variant
    ),
    pytest.param(
        ResolvedMesh(replica=2, data=1, fsdp=1, expert=2, tensor=2),
        id="replica-expert-tensor",
        marks=pytest.mark.variant,
    ),
    pytest.param(ResolvedMesh(replica=1, data=1, fsdp=2, expert=2, context=2, tensor=1), id="fsdp-expert-context"),
    pytest.param(
        ResolvedMesh(replica=1, data=2, fsdp=2, expert=1, tensor=2), id="no-expert", marks=pytest.mark.variant
    ),
]


@pytest.mark.parametrize("resolved", MESHES)
@pytest.mark.parametrize("kind", ["gpt-oss", pytest.param("deepseek", marks=pytest.mark.variant)])
def test_a_mesh_changes_nothing_even_if_all_tokens_choose_the_experts_of_one_device(
    resolved: ResolvedMesh, kind: str
) -> None:
    routing, options = KINDS[kind]
    mesh = build_mesh(resolved)
    spread: Any = None

    def on_mesh(moe: MixtureOfExperts, x: hax.NamedArray) -> Any:
        values, (by_moe, by_x) = found(moe, x)
        return values, (constrain(by_moe, mesh), by_x)

    for offsets in (np.zeros(EXPERTS), np.where(np.arange(EXPERTS) < 2, 50.0, 0.0)):
        moe, x = skewed(make(routing, **options), tokens(), offsets)
        placed = (
            jax.device_put(moe, shardings(moe, mesh, PARAMETER_AXES)),
            jax.device_put(x, shardings(x, mesh, COMPUTE_AXES)),
        )
        with computing(mesh):
            spread = spread or jax.jit(on_mesh)
            assert_near(spread(*placed), expected(moe, x))


def test_no_device_holds_the_whole_batch_or_all_experts() -> None:
    rows, length, experts = 16, 64, 16
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, expert=8, tensor=1))
    moe = make(MIXTRAL, experts=experts)
    x = hax.named(jnp.zeros((rows, length, EMBED)), ("batch", "position", "embed"))
    shapes = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        (moe, x),
        (shardings(moe, mesh, PARAMETER_AXES), shardings(x, mesh, COMPUTE_AXES)),
    )
    with computing(mesh):
        gradient = jax.grad(lambda moe, x: jnp.sum(moe(x)[0].array ** 2))
        program = jax.jit(lambda moe, x: constrain(gradient(moe, x), mesh)).lower(*shapes).compile()
    text = program.as_text() or ""
    assert "all-to-all" in text
    largest = max(
        int(np.prod([int(size) for size in dims.split(",")])) for dims in re.findall(r"f32\[([\d,]+)\]", text)
    )
    assert largest < rows * length * EMBED, "an array of the size of the whole batch"
    assert not re.search(rf"f32\[{experts},{EMBED},{MLP}\]", text), "the weights of all experts"


def test_rounds_are_as_many_as_the_busiest_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With little slack, several rounds are needed even for an even load; the result is the same."""
    monkeypatch.setattr(dispatch, "SLACK", 1)
    moe, x = make(MIXTRAL), tokens()
    mesh = build_mesh(ResolvedMesh(replica=1, data=1, fsdp=1, expert=8, tensor=1))
    placed = (
        jax.device_put(moe, shardings(moe, mesh, PARAMETER_AXES)),
        jax.device_put(x, shardings(x, mesh, COMPUTE_AXES)),
    )
    with computing(mesh):
        assert_near(jax.jit(lambda *inputs: found(*inputs))(*placed), expected(moe, x))


def test_the_correction_decides_the_choice_and_not_the_weight() -> None:
    logits = jnp.asarray([[2.0, 1.0, 0.0, -1.0]])
    routing = Routing(1, "sigmoid", normalised=False, scale=2.0)
    chosen = choose(logits, routing, jnp.asarray([0.0, 0.0, 0.0, 5.0]))
    assert chosen.experts.tolist() == [[3]]
    np.testing.assert_allclose(chosen.weights, 2 / (1 + np.exp(1.0)), rtol=1e-6)


def test_experts_are_chosen_from_the_best_groups_alone() -> None:
    """The group of the best expert is not among the best groups by the sum of two scores."""
    logits = jnp.asarray([[3.0, -9.0, 1.0, 1.0, 0.9, 0.9]])
    grouped = Routing(2, "sigmoid", groups=3, kept_groups=1)
    assert choose(logits, grouped).experts.tolist() == [[2, 3]]
    assert choose(logits, Routing(2, "sigmoid")).experts.tolist() == [[0, 2]]


def test_the_balance_loss_is_one_for_an_even_load_and_the_number_of_experts_for_one_busy_expert() -> None:
    even = jnp.eye(4)[None] * 1e-3
    choice = choose(even, Routing(1))
    found = balance(even, choice, jnp.ones((1, 4)), 4, lambda part: part)
    assert float(found.balance_loss[0]) == pytest.approx(1, abs=1e-6)
    assert found.load.tolist() == [[1, 1, 1, 1]]
    busy = jnp.zeros((1, 4, 4)).at[..., 2].set(100.0)
    found = balance(busy, choose(busy, Routing(1)), jnp.ones((1, 4)), 4, lambda part: part)
    assert float(found.balance_loss[0]) == pytest.approx(4)
    assert found.load.tolist() == [[0, 0, 4, 0]]
    assert float(found.z_loss[0]) == pytest.approx(100.0**2)


@pytest.mark.parametrize("resolved", [None, ResolvedMesh(replica=1, data=1, fsdp=2, expert=2, context=2, tensor=1)])
def test_tokens_without_weight_are_no_part_of_the_report(resolved: ResolvedMesh | None) -> None:
    """The report of rows that are padded by half, and of a row of padding alone; and its gradient, with that of the
    corrections.
    """
    moe, x = make(DEEPSEEK), tokens()
    weights = np.ones((ROWS, LENGTH), np.float32)
    weights[:, LENGTH // 2 :] = weights[-1] = 0
    noise = hax.named(jnp.where(weights[..., None] > 0, x.array, 7.0 * tokens(1).array), x.axes)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def penalty(moe: MixtureOfExperts, x: hax.NamedArray, weights: Any, of_row: Any) -> tuple[jax.Array, Any]:
        named = None if weights is None else hax.named(weights, ("batch", "position"))
        aux, found = reported(
            jax.tree.map(lambda leaf: leaf[None], moe(x, named)[1]), RouterLosses(0.5, 0.25, correction=0.1)
        )
        return jnp.sum(found.array * of_row), {name: numbers.array for name, numbers in aux.items()}

    half = x["position", hax.ds(0, LENGTH // 2)]
    of_row = jnp.asarray(weights.sum(1))
    (value, aux), gradient = jax.jit(penalty)(moe, half, None, of_row)
    if resolved is None:
        (found_value, found_aux), found_gradient = jax.jit(penalty)(moe, noise, jnp.asarray(weights), of_row)
    else:
        with computing(build_mesh(resolved)):
            (found_value, found_aux), found_gradient = jax.jit(penalty)(moe, noise, jnp.asarray(weights), of_row)
    assert float(found_value) == pytest.approx(float(value), rel=1e-5)
    assert_near(found_gradient, gradient)
    for name, numbers in aux.items():
        rows = -2 if name == "expert_load" else -1
        kept, padding = np.split(np.moveaxis(np.asarray(found_aux[name]), rows, 0), [ROWS - 1])
        np.testing.assert_allclose(kept, np.moveaxis(np.asarray(numbers), rows, 0)[: ROWS - 1], rtol=1e-5)
        assert not padding.any()


def test_the_report_of_a_model_is_the_mean_over_its_layers() -> None:
    compute = jax.jit(lambda moe, x: moe(x)[1])
    reports = [compute(make(MIXTRAL, seed=seed), tokens()) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports)
    aux, penalty = reported(stacked, RouterLosses(balance=0.5, z=0.25))
    balances, zs = (
        np.mean([np.asarray(getattr(one, name).array) for one in reports], 0) for name in ("balance_loss", "z_loss")
    )
    np.testing.assert_allclose(penalty.array, 0.5 * balances + 0.25 * zs, rtol=1e-6)
    assert aux["expert_load"].axis_names == ("layers", "batch", "routes")
    np.testing.assert_allclose(aux["load_balance_loss"].array, balances, rtol=1e-6)


def test_a_correction_is_moved_against_the_load_and_changes_no_loss() -> None:
    moe, x = skewed(make(DEEPSEEK), tokens(), np.where(np.arange(EXPERTS) < 2, 3.0, 0.0))

    def penalty(moe: MixtureOfExperts, factor: float) -> tuple[jax.Array, Any]:
        report = jax.tree.map(lambda leaf: leaf[None], moe(x)[1])
        aux, found = reported(report, RouterLosses(0.0, 0.0, correction=factor))
        return hax.sum(found).scalar(), aux["expert_load"]

    (value, load), gradient = jax.jit(jax.value_and_grad(lambda moe: penalty(moe, 0.5), has_aux=True))(moe)
    assert float(value) == 0
    expected = 0.5 * (np.asarray(load.array)[0] - 1).sum(0)
    np.testing.assert_allclose(gradient.router.correction.array, expected, atol=1e-5)
    assert gradient.router.correction.array[0] > 0 > gradient.router.correction.array[-1], (
        "descent lowers that of the busy expert"
    )
    still = jax.jit(jax.grad(lambda moe: penalty(moe, 0.0)[0]))(moe)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(still))


def test_narrow_compute_chooses_by_wide_logits() -> None:
    moe, x = make(MIXTRAL), tokens().astype(jnp.bfloat16)
    assert moe.router.logits(x).dtype == jnp.float32
    out, report = moe(x)
    assert out.dtype == jnp.bfloat16
    assert report.load.dtype == report.z_loss.dtype == jnp.float32
    wide = moe(x.astype(jnp.float32))[0]
    np.testing.assert_allclose(out.array.astype(jnp.float32), wide.array, atol=0.05 * float(jnp.abs(wide.array).max()))


def test_scores_at_experts_have_the_gradient_of_a_look_up() -> None:
    random = np.random.default_rng(0)
    scores = jnp.asarray(random.normal(size=(5, 8)), jnp.float32)
    experts = jnp.asarray([random.permutation(8)[:3] for _ in range(5)], jnp.int32)
    weight = jnp.asarray(random.normal(size=(5, 3)), jnp.float32)

    def total(look_up: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        return lambda scores: jnp.sum(weight * look_up(scores))

    found = jax.grad(total(lambda scores: at_experts(scores, experts)))(scores)
    wanted = jax.grad(total(lambda scores: jnp.take_along_axis(scores, experts, -1)))(scores)
    np.testing.assert_array_equal(found, wanted)
