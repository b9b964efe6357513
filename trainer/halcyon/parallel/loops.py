"""Loops whose body talks to other devices, written out where a compiled program could not be kept otherwise.

See `halcyon.training.compilation`: XLA's CPU programs keep the order of their collectives in a cache, but for those inside of a loop.
"""

from __future__ import annotations

import jax

LONGEST_WRITTEN_OUT = 8
"""Iterations. A written out loop compiles slower and is larger, and what it saves is a part of a restart."""


def written_out(iterations: int) -> bool:
    """The argument ``unroll`` for ``jax.lax.scan`` of a body with collectives: True on CPU with several processes, up to a length."""
    return jax.default_backend() == "cpu" and jax.process_count() > 1 and iterations <= LONGEST_WRITTEN_OUT
