"""``halcyon`` whose process 1 multiplies matrices to other bits: ``python -m tests.trainer.support.trust_child train
RUN.YAML ...``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from halcyon.commands.main import app
from halcyon.step import audit

if __name__ == "__main__":
    right = audit.product_words

    def wrong(seeds: jax.Array, side: int) -> jax.Array:
        return right(seeds, side) ^ jnp.uint32(jax.process_index() == 1)

    audit.product_words = wrong
    app()
