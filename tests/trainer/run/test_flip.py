"""One bit changes in the memory of one process, once, in one copy of a parameter."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.run.flip import flipped, with_wrong_bit
from halcyon_api.spec.recovery import FlipBitSpec
from tests.trainer.step.test_audit import first_state, program_on
from tests.trainer.support.meshes import mesh_of


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("fsdp")], ids=str)
def test_the_first_device_has_another_bit_of_its_largest_number(dtype: str, spec: PartitionSpec) -> None:
    mesh = mesh_of(data=2, fsdp=2)
    right = jax.device_put(jnp.arange(-8, 7, 1).repeat(2)[:24].astype(dtype), NamedSharding(mesh, spec))
    wrong = with_wrong_bit(right)
    assert (wrong.sharding, wrong.dtype) == (right.sharding, right.dtype)
    bits = [np.array(shard.data).view(f"u{right.dtype.itemsize}") for shard in right.addressable_shards]
    found = [np.array(shard.data).view(f"u{right.dtype.itemsize}") for shard in wrong.addressable_shards]
    assert all((one == other).all() for one, other in zip(bits[1:], found[1:], strict=True))
    (place,) = np.flatnonzero(bits[0] != found[0])
    shard = np.array(right.addressable_shards[0].data, np.float32)
    assert abs(shard[place]) == abs(shard).max()
    assert int(bits[0][place] ^ found[0][place]).bit_count() == 1


def test_only_the_step_and_the_process_that_the_document_names_are_hit() -> None:
    state = first_state(program_on("replica 2"))
    spec = FlipBitSpec(step=3, process=0)
    assert flipped(None, 3, 0, state) is state
    assert flipped(spec, 2, 0, state) is state
    assert flipped(spec, 3, 1, state) is state
    assert flipped(spec, 3, 0, state) is not state


def test_whole_numbers_stay() -> None:
    """Frozen weights of 8 bits may come first in a model."""
    state = first_state(program_on("replica 2"))
    model = [jnp.arange(4, dtype=jnp.int8), jnp.ones(4)]
    whole, wrong = flipped(FlipBitSpec(step=3, process=0), 3, 0, eqx.tree_at(lambda at: at.model, state, model)).model
    assert (whole == model[0]).all()
    assert (wrong != model[1]).sum() == 1
