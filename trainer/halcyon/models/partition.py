"""What a model may ask about the devices that compute it, without knowing the mesh.

Two computations of a model, the gradient of an embedding and the loss, add up sums over all positions. XLA would send each partial sum
over the network, so they are written by device: each device adds up its own part and one reduction follows. They see the devices only
through `Shard`. The code that traces the model decides which devices there are: `halcyon.parallel.partition.computing` installs the
partition of a mesh. Without it there is one device, which holds everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from haliax import Axis, NamedArray


class Shard(Protocol):
    """One device among those that compute together, and the part of each array that it holds."""

    def gathered(self, x: NamedArray) -> NamedArray:
        """A parameter in the form it is computed with, from the part that this device stores."""
        ...

    def reduced(self, x: NamedArray) -> NamedArray:
        """The sum of a parameter's gradient over the whole batch; this device's stored part of it."""
        ...

    def sum_over_batch(self, x: jax.Array) -> jax.Array:
        """The sum over all parts of the batch."""
        ...

    def sum_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The sum over all parts of a logical axis."""
        ...

    def max_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The maximum over all parts of a logical axis."""
        ...

    def part(self, axis: Axis) -> tuple[Axis, jax.Array | int]:
        """This device's part of a logical axis, and the index of its first element in the whole axis."""
        ...


@dataclass(frozen=True)
class Result:
    """How a result of `by_device` is divided among the devices.

    Attributes:
        axes: The names of its axes; empty for a scalar.
        parameter: True where it is divided like a stored parameter, False where it is divided like an activation.
    """

    axes: tuple[str, ...] = ()
    parameter: bool = False


class Partition(Protocol):
    """How the work of a model is divided."""

    def by_device(self, function: Callable[[Shard, Any, Any], Any], activations: Any, parameters: Any, results: Any) -> Any:
        """See the function `by_device`."""
        ...

    def parts_of(self, axis: Axis) -> int:
        """Into how many parts an axis of an activation is divided."""
        ...

    def unroll(self, iterations: int) -> bool:
        """Whether a loop whose body communicates must be unrolled (see `halcyon.training.compilation`)."""
        ...


class _WholeShard:
    """The only device: it holds everything, and nothing is sent."""

    def gathered(self, x: NamedArray) -> NamedArray:
        return x

    def reduced(self, x: NamedArray) -> NamedArray:
        return x

    def sum_over_batch(self, x: jax.Array) -> jax.Array:
        return x

    def sum_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        del axis
        return x

    def max_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        del axis
        return x

    def part(self, axis: Axis) -> tuple[Axis, jax.Array | int]:
        return axis, 0


class OneDevice:
    """The partition of a single device, and of arrays that no mesh divides."""

    def by_device(self, function: Callable[[Shard, Any, Any], Any], activations: Any, parameters: Any, results: Any) -> Any:
        """The function, called once with everything."""
        del results
        return function(_WholeShard(), activations, parameters)

    def parts_of(self, axis: Axis) -> int:
        """1."""
        del axis
        return 1

    def unroll(self, iterations: int) -> bool:
        """False: nothing communicates."""
        del iterations
        return False


_partition: ContextVar[Partition] = ContextVar("halcyon-partition", default=OneDevice())  # noqa: B039 - it has no state


@contextlib.contextmanager
def partitioned(partition: Partition) -> Iterator[None]:
    """Trace models in here with this partition."""
    token = _partition.set(partition)
    try:
        yield
    finally:
        _partition.reset(token)


def by_device(function: Callable[[Shard, Any, Any], Any], activations: Any, parameters: Any, results: Any) -> Any:
    """Call ``function(shard, activations, parameters)`` on each device with its parts of the two trees.

    Args:
        function: Gets arrays and axes of the sizes of this device's parts.
        activations: Tree of named arrays. Their axis ``batch``, where they have it, is that of one batch.
        parameters: Tree of named arrays, in the form in which they are stored.
        results: Tree of `Result` with the structure of what the function returns.
    """
    return _partition.get().by_device(function, activations, parameters, results)


def parts_of(axis: Axis) -> int:
    """Into how many parts the context divides an axis of an activation."""
    return _partition.get().parts_of(axis)


def unroll(iterations: int) -> bool:
    """Whether a loop with this number of iterations, whose body communicates, must be unrolled."""
    return _partition.get().unroll(iterations)
