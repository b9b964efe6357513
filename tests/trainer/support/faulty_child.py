"""``halcyon`` on a device that computes or keeps wrong numbers: ``python -m tests.trainer.support.faulty_child train …``.

FAULT=parameter: after step FAULT_STEP, counted from 1, one bit of one parameter (of the first norm, which each token
uses) is another one in the memory of the process FAULTY. FAULT=arithmetic: from that step on, each number of the
gradients of the slice FAULTY is the next larger one. FAULT=once: only in the step FAULT_STEP, and only in the first
computation of it in an audit. FAULT=batch: one bit of the first token of the batch of that step is another one, in a run
of one process.
"""

from __future__ import annotations

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.commands.main import app
from halcyon.data.loader import Loader
from halcyon.run.programs import Programs
from halcyon.step.audit import Audit
from halcyon.step.gradients import Gradients
from halcyon.step.state import TrainState

KIND, FAULTY, STEP = os.environ.get("FAULT"), int(os.environ.get("FAULTY", "0")), int(os.environ.get("FAULT_STEP", "0"))
program_of, evaluated = Programs.of, Audit._digests
of_group, of_first = Gradients._of_group, Gradients._of_first
batch_of = Loader.batch
taken = 0
lied = False


def with_another_bit(state: TrainState) -> TrainState:
    leaves, tree = jax.tree.flatten(state.model)
    shards = [np.array(shard.data) for shard in leaves[1].addressable_shards]
    shards[0].reshape(-1).view(np.uint32)[0] ^= 1 << 22  # the first bit of the mantissa
    local = [
        jax.device_put(data, shard.device) for data, shard in zip(shards, leaves[1].addressable_shards, strict=True)
    ]
    leaves[1] = jax.make_array_from_single_device_arrays(leaves[1].shape, leaves[1].sharding, local)
    return eqx.tree_at(lambda whole: whole.model, state, jax.tree.unflatten(tree, leaves))


def faulty_memory(programs: Programs, batch: Any, *, watched: bool = False) -> Any:
    step_of = program_of(programs, batch, watched=watched)

    def step(state: Any, *rest: Any) -> Any:
        global taken
        state, metrics = step_of(state, *rest)
        taken += 1
        return (with_another_bit(state) if taken == STEP and jax.process_index() == FAULTY else state), metrics

    return step


def faulty_batch(loader: Loader, step: int) -> Any:
    found = batch_of(loader, step)
    if step + 1 != STEP:
        return found
    bits = np.zeros(found["tokens"].shape, np.int32)
    bits.flat[0] = 1
    return found | {"tokens": found["tokens"] ^ bits}


def faulty_arithmetic(of_rows: Any) -> Any:
    def faulty(gradients: Gradients, batch: Any, parts: Any, step: jax.Array) -> Any:
        sums, gradient = of_rows(gradients, batch, parts, step)
        wrong = (jax.lax.axis_index("replica") == FAULTY) & (step >= STEP)
        return sums, jax.tree.map(lambda x: jnp.where(wrong, jnp.nextafter(x, jnp.float32(np.inf)), x), gradient)

    return faulty


def faulty_once(audit: Audit, state: Any, batch: Any, shift: int) -> Any:
    global lied
    words = evaluated(audit, state, batch, shift)
    if int(state.step) == STEP and not lied:
        words = words.copy()
        words[FAULTY, 0, 0] ^= 1
        lied = True
    return words


if __name__ == "__main__":
    if KIND == "parameter":
        Programs.of = faulty_memory  # type: ignore[method-assign]
    if KIND == "batch":
        Loader.batch = faulty_batch  # type: ignore[method-assign]
    if KIND == "arithmetic":
        Gradients._of_group = faulty_arithmetic(of_group)  # type: ignore[method-assign]
        Gradients._of_first = faulty_arithmetic(of_first)  # type: ignore[method-assign]
    if KIND == "once":
        Audit._digests = faulty_once  # type: ignore[method-assign]
    app()
