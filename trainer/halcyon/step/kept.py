"""Memory that a traced step needs in any case, before it is compiled.

A loop over blocks keeps arrays for the backward pass, stacked over its iterations: no compiler can leave them out,
because the backward pass is another loop. Pure.
"""

from collections.abc import Iterator
from typing import Any

import jax

_LOOP, _PER_DEVICE = "scan", "shard_map"


def kept_bytes(jaxpr: Any) -> int:
    """Bytes of the arrays that the loop which keeps most of them stacks over its iterations, and of those that it reads
    and an earlier loop stacked, on all devices together: the loop of the backward pass stacks gradients of blocks
    beside what the forward pass kept.

    A lower bound: of arrays that devices have copies of, one counts.

    Args:
        jaxpr: A traced program, as ``jax.stages.Traced.jaxpr.jaxpr``.
    """
    most, made = 0, set[int]()
    for equation in jaxpr.eqns:
        for inner in _inside(equation):
            kept = kept_bytes(inner)
            if equation.primitive.name == _PER_DEVICE:  # shapes inside are those of one device
                pairs = _pairs(equation.invars, inner.invars)
                kept *= max((out.aval.size // max(1, one.aval.size) for out, one in pairs), default=1)
            most = max(most, kept)
            if equation.primitive.name == _LOOP:
                pairs = _pairs(equation.outvars, inner.outvars)
                stacked = [out for out, one in pairs if out.aval.shape != one.aval.shape]
                read = [one for one in equation.invars if id(one) in made]
                most = max(most, sum(map(_bytes, (*stacked, *read))))
                made |= set(map(id, stacked))
    return most


def _inside(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _pairs(outside: Any, inside: Any) -> Iterator[tuple[Any, Any]]:
    if len(outside) == len(inside):
        yield from ((out, one) for out, one in zip(outside, inside, strict=True) if hasattr(one.aval, "shape"))


def _bytes(variable: Any) -> int:
    """Bytes in the memory of devices: what `remat: offload` keeps in the host's memory takes none."""
    aval = variable.aval
    return 0 if aval.memory_space == jax.memory.Space.Host else aval.size * aval.dtype.itemsize
