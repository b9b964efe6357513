"""The table from logical axes to mesh axes, and the shardings of a real model on virtual devices."""

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from halcyon.models import build_model
from halcyon.models.partition import parts_of
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, constrain, named_sharding, shardings, with_shardings
from halcyon.parallel.device_mesh import build_mesh
from halcyon.parallel.partition import computing
from halcyon_api.spec.mesh import ResolvedMesh
from tests.trainer.models.cases import FAMILIES, GPT2, LLAMA, VOCAB, batch, loss_and_gradient, losses, make
from tests.trainer.models.reference import named_leaves

FULL = ResolvedMesh(replica=2, data=1, fsdp=2, tensor=2)
ALONE = ResolvedMesh(replica=1, data=1, fsdp=1, tensor=1)
FSDP = ResolvedMesh(replica=1, data=1, fsdp=4, tensor=1)
NO_TENSOR = ResolvedMesh(replica=2, data=2, fsdp=2, tensor=1)
CONTEXT = ResolvedMesh(replica=1, data=1, fsdp=2, context=2, tensor=2)
EXPERT = ResolvedMesh(replica=1, data=1, fsdp=2, expert=2, context=2, tensor=1)
MIXTRAL = FAMILIES["mixtral"]


def mesh_of(resolved: ResolvedMesh):
    return build_mesh(resolved, jax.devices()[: resolved.devices])


def build(spec):
    return build_model(spec, VOCAB, hax.Axis("position", 12), key=jax.random.key(7))


@pytest.mark.parametrize(
    ("path", "partition"),
    [
        ("embedding/weight", ("tensor", "fsdp")),
        ("blocks/attention_norm/weight", (None, "fsdp")),
        ("blocks/attention/query/weight", (None, "fsdp", "tensor", None, None)),
        ("blocks/attention/key/weight", (None, "fsdp", "tensor", None)),
        ("blocks/attention/output/weight", (None, "tensor", None, None, "fsdp")),
        ("blocks/mlp/gate/weight", (None, "fsdp", "tensor")),
        ("blocks/mlp/down/weight", (None, "tensor", "fsdp")),
        ("untied_head/weight", ("fsdp", "tensor")),
    ],
)
def test_parameters_at_rest(path, partition):
    found = named_leaves(shardings(jax.eval_shape(lambda: build(LLAMA)), mesh_of(FULL)))
    assert found[path].array.spec == PartitionSpec(*partition)


def test_the_batch_is_split_over_all_data_axes_and_its_positions_over_context():
    assert named_sharding(mesh_of(FULL), ("batch", "position")).spec == PartitionSpec(
        ("replica", "data", "fsdp", "expert"), "context"
    )


def test_tensor_axes_agree_at_rest_and_in_computation():
    at_rest = {axis: to for axis, to in PARAMETER_AXES.items() if to == "tensor"}
    assert at_rest == {axis: to for axis, to in COMPUTE_AXES.items() if to == "tensor"}


def test_other_leaves_are_replicated():
    tree = {"count": jnp.int32(3), "key": jax.random.key(0), "named": hax.zeros(hax.Axis("embed", 4))}
    found = shardings(tree, mesh_of(FULL))
    assert found["count"].spec == found["key"].spec == PartitionSpec()
    assert found["named"].array.spec == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("spec", "meshes"),
    [
        pytest.param(LLAMA, (ALONE, FSDP, FULL), id="llama"),
        pytest.param(GPT2, (ALONE, FULL), id="gpt2"),
        pytest.param(MIXTRAL, (ALONE, EXPERT), id="mixtral", marks=pytest.mark.variant),
    ],
)
def test_first_parameters_are_bitwise_the_same_on_every_mesh(spec, meshes):
    leaves = []
    for resolved in meshes:
        template = with_shardings(jax.eval_shape(lambda: build(spec)), mesh_of(resolved))
        model = jax.jit(lambda: build(spec), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, template))()
        for made, wanted in zip(jax.tree.leaves(model), jax.tree.leaves(template), strict=True):
            assert made.sharding.is_equivalent_to(wanted.sharding, made.ndim)
        leaves.append([np.asarray(leaf) for leaf in jax.tree.leaves(model)])
    for others in leaves[1:]:
        for path, left, right in zip(named_leaves(template), leaves[0], others, strict=True):
            assert left.tobytes() == right.tobytes(), path


@pytest.mark.parametrize(
    ("spec", "resolved"),
    [
        pytest.param(LLAMA, NO_TENSOR, id="fsdp-llama"),
        pytest.param(LLAMA, FULL, id="fsdp-tensor-llama"),
        pytest.param(GPT2, NO_TENSOR, id="fsdp-gpt2", marks=pytest.mark.slow),
        pytest.param(GPT2, FULL, id="fsdp-tensor-gpt2", marks=pytest.mark.slow),
        pytest.param(LLAMA, CONTEXT, id="context-llama", marks=pytest.mark.variant),
        pytest.param(MIXTRAL, EXPERT, id="expert-context-mixtral", marks=pytest.mark.variant),
    ],
)
def test_loss_and_gradient_are_those_of_one_device(spec, resolved, capfd):
    model, arrays = make(spec), batch(rows=8)
    alone = losses(model, *arrays)
    mesh = mesh_of(resolved)
    spread = jax.device_put(model, shardings(model, mesh))
    rows = jax.device_put(arrays, shardings(arrays, mesh, COMPUTE_AXES))
    with computing(mesh):
        together = jax.jit(lambda *inputs: constrain(loss_and_gradient(*inputs), mesh))(spread, *rows)
    assert (
        "rematerialization" not in capfd.readouterr().err
    )  # XLA's warning when it copies an array to every device to reshard it
    for left, right in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * float(jnp.abs(left).max()) + 1e-5)


def test_constraints_hold_inside_of_a_program():
    mesh = mesh_of(FULL)
    model = make(LLAMA)
    doubled = jax.jit(lambda model: constrain(jax.tree.map(lambda leaf: leaf * 2, model), mesh))(model)
    for made, wanted in zip(jax.tree.leaves(doubled), jax.tree.leaves(shardings(model, mesh)), strict=True):
        assert made.sharding.is_equivalent_to(wanted, made.ndim)


def test_the_parts_of_an_axis_are_those_of_the_context():
    rows, wide = hax.Axis("batch", 8), hax.Axis("mlp", 8)
    assert parts_of(rows) == 1
    with computing(mesh_of(FULL)):
        assert (parts_of(rows), parts_of(wide), parts_of(hax.Axis("position", 8))) == (4, 2, 1)
        assert jax.jit(lambda: parts_of(rows))() == 4
    assert parts_of(rows) == 1
