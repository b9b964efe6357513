"""``trainer.unroll``: how many blocks of a model one iteration of its loop over blocks computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

AUTOMATIC_UNROLL = 2
"""The value of ``auto`` where it helps: the compiler can then send for one block while it computes the other. More
blocks make a longer program, and need memory for the arrays of each."""

_EXCHANGING = ("fsdp", "expert", "context", "tensor")
"""Axes of the mesh whose devices exchange arrays inside of a block."""

UNROLL_DESCRIPTION = (
    "Blocks of the model in one iteration of the loop over them. More make the program longer, and let the compiler "
    "overlap more. `auto`: "
    f"{AUTOMATIC_UNROLL} on GPUs whose mesh has {', '.join(_EXCHANGING[:-1])} or {_EXCHANGING[-1]}, unless the "
    "compiler sends for one "
    "block during the next, as on compute capability 9 and 10; else 1."
)


def unrolled_blocks(unroll: int | Literal["auto"], platform: str, sizes: Mapping[str, int], *, pipelined: bool) -> int:
    """The number of blocks in one iteration.

    On TPUs ``auto`` is 1: in programs for v5p, two blocks cover no more of what devices send
    (docs/design/parallelism.md).

    Args:
        unroll: ``trainer.unroll``.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        sizes: Sizes of the axes of the mesh.
        pipelined: Whether the compiler sends for one block during the next one, by options that want one block in an
            iteration.
    """
    if unroll != "auto":
        return unroll
    return (
        AUTOMATIC_UNROLL
        if platform == "gpu" and not pipelined and any(sizes.get(axis, 1) > 1 for axis in _EXCHANGING)
        else 1
    )
