"""AdamW compared with its definition in NumPy: weight decay, clipping, and the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from halcyon.models.parameters import Role
from halcyon.models.parameters import parameters as declarations
from halcyon.optim import build_optimizer, learning_rate
from halcyon.optim.rule import decaying
from halcyon.parallel.axes import shardings
from halcyon.parallel.device_mesh import build_mesh
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.rules import AdamWSpec
from halcyon_api.spec.schedule import CosineScheduleSpec, ScheduleSpec
from halcyon_api.spec.trainer import TrainerSpec
from tests.trainer.models.cases import GPT2, LLAMA, make, roles, shapes
from tests.trainer.models.reference import named_leaves

STEPS = 20
SCHEDULE = ScheduleSpec(cosine=CosineScheduleSpec(warmup_steps=5, min_ratio=0.1))
ADAMW = AdamWSpec(beta1=0.8, beta2=0.9)
OPTIMIZER = OptimizerSpec(learning_rate=0.02, weight_decay=0.3, max_gradient_norm=1.0, schedule=SCHEDULE, adamw=ADAMW)


def rate(number: int) -> float:
    if number <= 5:
        return 0.02 * number / 5
    return 0.02 * (0.1 + 0.9 * (1 + np.cos(np.pi * (number - 5) / (STEPS - 5))) / 2)


def _update(optimizer, gradient, model, rate, state=None):
    return optimizer.update(
        gradient, optimizer.init(model) if state is None else state, model, learning_rate=jnp.float32(rate)
    )


@pytest.mark.parametrize("scale", [1e-3, 10.0], ids=["unclipped", "clipped"])
def test_twenty_steps_are_those_of_the_definition(scale):
    model = make(GPT2)
    optimizer = build_optimizer(OPTIMIZER, model)
    noise = np.random.default_rng(0)
    paths = list(named_leaves(model))
    gradients = [
        [scale * noise.standard_normal(leaf.shape).astype(np.float32) for leaf in jax.tree.leaves(model)]
        for _ in range(STEPS)
    ]

    @jax.jit
    def update(model, state, gradient, done):
        rate = learning_rate(OPTIMIZER, TrainerSpec(steps=STEPS, batch_size=8, sequence_length=32))(done)
        updates, state = optimizer.update(gradient, state, model, learning_rate=rate)
        return optax.apply_updates(model, updates), state

    ours, state = model, jax.jit(optimizer.init)(model)
    expected = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(model)]
    first, second = [np.zeros_like(each) for each in expected], [np.zeros_like(each) for each in expected]
    for number in range(1, STEPS + 1):
        ours, state = update(
            ours, state, jax.tree.unflatten(jax.tree.structure(model), gradients[number - 1]), number - 1
        )
        norm = np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in gradients[number - 1]))
        for index, gradient in enumerate(gradients[number - 1]):
            g = gradient * min(1.0, 1.0 / norm)
            first[index] = 0.8 * first[index] + 0.2 * g
            second[index] = 0.9 * second[index] + 0.1 * g**2
            direction = first[index] / (1 - 0.8**number) / (np.sqrt(second[index] / (1 - 0.9**number)) + 1e-8)
            is_matrix = "norm" not in paths[index] and "weight" in paths[index] and paths[index].startswith("blocks/")
            expected[index] -= rate(number) * (direction + (0.3 * expected[index] if is_matrix else 0))
    for path, left, right in zip(paths, jax.tree.leaves(ours), expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_decay_touches_linear_maps_only(spec):
    model = make(spec)
    settings = OptimizerSpec(learning_rate=0.1, weight_decay=0.5, schedule=ScheduleSpec(constant={}), adamw=AdamWSpec())
    optimizer = build_optimizer(settings, model)
    updates = jax.jit(lambda model: _update(optimizer, jax.tree.map(jnp.zeros_like, model), model, 0.1)[0])(model)
    role_of = dict(zip(named_leaves(model), jax.tree.leaves(roles(model)), strict=True))
    parameters = named_leaves(model)
    for path, leaf in named_leaves(updates).items():
        expected = (
            -0.1 * 0.5 * parameters[path].array
            if role_of[path] in (Role.MATRIX, Role.HEAD)
            else jnp.zeros_like(leaf.array)
        )
        np.testing.assert_allclose(leaf.array, expected, rtol=1e-6, err_msg=path)
    decays = jax.tree.leaves(decaying(declarations(model)))
    touched = {path for path, does in zip(parameters, decays, strict=True) if does}
    assert {path.rsplit("/", 1)[-1] for path in touched} == {"weight"}
    assert not any("norm" in path or path.startswith(("embedding", "positions")) for path in touched)


def test_gradients_are_not_clipped_with_a_norm_limit_of_0():
    model = make(LLAMA)
    unclipped = OptimizerSpec(max_gradient_norm=0.0, weight_decay=0.0, adamw=AdamWSpec(beta1=0.0, beta2=0.0))
    optimizer = build_optimizer(unclipped, model)
    huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e3), model)
    state = jax.jit(lambda gradient, model: _update(optimizer, gradient, model, 0.1)[1])(huge, model)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert {float(leaf.max()) for leaf in moments} == {1e3, 1e6}


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_moments_have_their_own_type_and_the_sharding_of_the_parameters(parameters, moments):
    model = shapes(LLAMA, dtype=parameters)
    optimizer = build_optimizer(OPTIMIZER, model, moments)
    state = jax.eval_shape(optimizer.init, model)
    after = jax.eval_shape(lambda model: _update(optimizer, model, model, 0.1)[1], model)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, after)
    dtype, moments = moments, [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(dtype)}
    assert len(moments) == 2 * len(jax.tree.leaves(model))
    mesh = build_mesh(ResolvedMesh(replica=1, data=2, fsdp=2, tensor=2))
    of_parameters = [sharding.spec for sharding in jax.tree.leaves(shardings(model, mesh))]
    of_moments = [
        sharding.spec
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings(state, mesh)), strict=True)
        if leaf.ndim
    ]
    assert of_moments == of_parameters * 2


def test_the_first_state_is_zero():
    model = make(LLAMA)
    state = build_optimizer(OPTIMIZER, model).init(model)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("parameters", ["float32", "bfloat16"])
@pytest.mark.parametrize("beta2", [0.95, 0.99, 0.999])
def test_the_second_moment_decays_as_defined_for_narrow_parameters_too(parameters, beta2):
    """Up to 2,000 zero gradients after a nonzero one: a moment in bfloat16 would not change, because each change is
    below its rounding.
    """
    spec = OPTIMIZER.model_copy(update={"adamw": ADAMW.model_copy(update={"beta2": beta2}), "max_gradient_norm": 0.0})
    model = make(LLAMA, dtype=parameters)
    optimizer = build_optimizer(spec, model)
    ones, zeros = (jax.tree.map(lambda leaf, value=value: jnp.full_like(leaf, value), model) for value in (1, 0))
    count = 2000 if beta2 == 0.999 else 100

    @jax.jit
    def decayed(model):
        state = _update(optimizer, ones, model, 0.0)[1]
        return jax.lax.fori_loop(0, count, lambda _, state: _update(optimizer, zeros, model, 0.0, state)[1], state)

    (_, adam, *_) = decayed(model)
    for leaf in jax.tree.leaves(adam.nu):
        np.testing.assert_allclose(leaf, (1 - beta2) * beta2**count, rtol=1e-3)


def test_updates_are_rounded_once_where_parameters_are_narrow():
    """Weight decay is computed in float32: in bfloat16 the product alone would have an error of up to 0.2 %."""
    model = make(LLAMA, dtype="bfloat16")
    spec = OptimizerSpec(learning_rate=0.1, weight_decay=0.3, schedule=ScheduleSpec(constant={}), adamw=AdamWSpec())
    optimizer = build_optimizer(spec, model)
    updates = jax.jit(lambda model: _update(optimizer, jax.tree.map(jnp.zeros_like, model), model, 0.1)[0])(model)
    for weight, update in zip(
        jax.tree.leaves(model.blocks.stacked.mlp), jax.tree.leaves(updates.blocks.stacked.mlp), strict=True
    ):
        assert update.dtype == jnp.float32
        np.testing.assert_allclose(update, -0.1 * 0.3 * weight.astype(jnp.float32), rtol=1e-6)
