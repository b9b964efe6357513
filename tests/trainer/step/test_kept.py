"""What a traced program keeps in any case is counted before it is compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from halcyon.run.auto_tuning import Choice, traced_step, with_choice
from halcyon.step.kept import kept_bytes
from halcyon_api.spec.trainer import AUTOMATIC_REMAT
from tests.trainer.run.test_auto_tuning import LENGTH, ROWS, VOCABULARY, spec_of
from tests.trainer.support.meshes import mesh_of


def stacked(x: jax.Array) -> Any:
    """Seven arrays of the size of `x`."""
    return jax.lax.scan(lambda sum_of, _: (sum_of + x, sum_of), x, None, length=7)[1]


def test_the_largest_loop_counts_however_deep_it_is() -> None:
    x = jnp.zeros((4, 8), jnp.float32)
    one = 7 * x.size * 4
    assert kept_bytes(jax.make_jaxpr(stacked)(x).jaxpr) == one
    assert kept_bytes(jax.make_jaxpr(lambda x: (jax.jit(stacked)(x), jax.jit(stacked)(2 * x)))(x).jaxpr) == one
    assert kept_bytes(jax.make_jaxpr(lambda x: x @ x.T)(x).jaxpr) == 0


def test_a_loop_that_reads_what_another_one_kept_has_both_in_memory() -> None:
    """As the backward pass, which stacks the gradients of blocks beside what the forward pass kept."""
    x = jnp.zeros((4, 8), jnp.float32)

    def backward(x: jax.Array) -> Any:
        return jax.lax.scan(lambda total, kept: (total + kept, total * kept), x, stacked(x))[1]

    assert kept_bytes(jax.make_jaxpr(backward)(x).jaxpr) == 2 * 7 * x.size * 4


def test_what_is_in_the_hosts_memory_takes_none_of_a_device() -> None:
    def offloaded(x: jax.Array) -> Any:
        def one(total: jax.Array, _: Any) -> tuple[jax.Array, Any]:
            return total + x, (jax.device_put(total, jax.memory.Space.Host), total[0])

        return jax.lax.scan(one, x, None, length=7)[1]

    x = jnp.zeros((4, 8), jnp.float32)
    assert kept_bytes(jax.make_jaxpr(offloaded)(x).jaxpr) == 7 * 8 * 4


def test_a_step_with_blocks_in_the_hosts_memory_keeps_less() -> None:
    def kept(remat: str) -> int:
        spec = spec_of(microbatches=1, remat=remat)
        many = spec.trainer.model_copy(update={"batch_size": 16 * ROWS})  # more bytes than the gradients
        traced = traced_step(spec.model_copy(update={"trainer": many}), VOCABULARY, mesh_of(fsdp=2))
        return kept_bytes(traced.traced.jaxpr.jaxpr)

    assert kept("offload") < kept("full") / 2


def test_shapes_of_one_device_count_for_all_devices() -> None:
    mesh = mesh_of(fsdp=2)
    rows = PartitionSpec("fsdp")
    each = jax.shard_map(stacked, mesh=mesh, in_specs=rows, out_specs=PartitionSpec(None, "fsdp"))
    x = jnp.zeros((4, 8), jnp.float32)
    assert kept_bytes(jax.make_jaxpr(each)(x).jaxpr) == 7 * x.size * 4


def test_a_step_keeps_more_the_less_it_computes_again() -> None:
    spec, mesh = spec_of(), mesh_of(fsdp=2)
    found = [
        kept_bytes(traced_step(with_choice(spec, Choice(1, remat)), VOCABULARY, mesh).traced.jaxpr.jaxpr)
        for remat in AUTOMATIC_REMAT
    ]
    assert found == sorted(set(found), reverse=True)
    llama = spec.model
    assert llama is not None
    assert found[-1] >= llama.num_hidden_layers * ROWS * LENGTH * llama.hidden_size * 4


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("microbatches", [1, 4])
def test_a_compiled_step_takes_at_least_what_its_trace_keeps(remat: Any, microbatches: int) -> None:
    traced = traced_step(with_choice(spec_of(), Choice(microbatches, remat)), VOCABULARY, mesh_of(fsdp=2))
    compiled = traced.compiled()
    assert compiled is not None
    assert compiled.needed_bytes is not None
    assert compiled.needed_bytes / 2 < traced.least_bytes < compiled.needed_bytes
