"""``halcyon`` on a device that lies once: ``LIE=STEP python -m tests.trainer.support.lying_child train RUN.YAML``.

After that step, counted from 1, one bit of one parameter (of the first norm, which each token uses) is another one.
"""

from __future__ import annotations

import os
from typing import Any

import equinox as eqx
import jax
import numpy as np

from halcyon.commands.main import app
from halcyon.run.programs import Programs
from halcyon.step.state import TrainState

program_of = Programs.of
taken = 0


def with_another_bit(state: TrainState) -> TrainState:
    leaves, tree = jax.tree.flatten(state.model)
    bits = np.array(leaves[1]).view(np.uint32)
    bits.flat[0] ^= 1 << 22  # the first bit of the mantissa
    leaves[1] = jax.device_put(bits.view(np.float32), leaves[1].sharding)
    return eqx.tree_at(lambda whole: whole.model, state, jax.tree.unflatten(tree, leaves))


def lying(programs: Programs, batch: Any, *, watched: bool = False) -> Any:
    step_of = program_of(programs, batch, watched=watched)

    def step(state: Any, *rest: Any) -> Any:
        global taken
        state, metrics = step_of(state, *rest)
        taken += 1
        return (with_another_bit(state) if taken == int(os.environ["LIE"]) else state), metrics

    return step


if __name__ == "__main__":
    Programs.of = lying  # type: ignore[method-assign]
    app()
