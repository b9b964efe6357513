"""``halcyon`` on a device that computes or keeps wrong numbers: ``python -m tests.trainer.support.faulty_child train …``.

FAULT=arithmetic: from step FAULT_STEP on, counted from 1, each number of the gradients of the slice FAULTY is the next
larger one. FAULT=once: only in that step, and only in the first computation of it in an audit. FAULT=batch: one bit of
the first token of the batch of that step is another one, in a run of one process.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.commands.main import app
from halcyon.data.loader import Loader
from halcyon.step.audit import Audit
from halcyon.step.gradients import Gradients

KIND, FAULTY, STEP = os.environ.get("FAULT"), int(os.environ.get("FAULTY", "0")), int(os.environ.get("FAULT_STEP", "0"))
evaluated = Audit._digests
of_group, of_first = Gradients._of_group, Gradients._of_first
batch_of = Loader.batch
lied = False


def faulty_batch(loader: Loader, step: int, state: Any) -> Any:
    found = batch_of(loader, step, state)
    if step + 1 != STEP:
        return found
    bits = np.zeros(found["tokens"].shape, np.int32)
    bits.flat[0] = 1
    return {**found, "tokens": found["tokens"] ^ bits}


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
    if KIND == "batch":
        Loader.batch = faulty_batch  # type: ignore[method-assign]
    if KIND == "arithmetic":
        Gradients._of_group = faulty_arithmetic(of_group)  # type: ignore[method-assign]
        Gradients._of_first = faulty_arithmetic(of_first)  # type: ignore[method-assign]
    if KIND == "once":
        Audit._digests = faulty_once  # type: ignore[method-assign]
    app()
