"""The interface between a model and the devices that compute it, so that a model does not depend on the mesh.

Two computations of a model, the gradient of an embedding and the loss, add up sums over all positions. XLA would send
each partial sum over the network. So they are written for one device: each device adds up its own part, and one
reduction follows. Experts are written for one device too, because XLA would copy all tokens to every device to sort
them. These computations use the devices only through `Shard`. The code that traces the model chooses the devices:
`halcyon.parallel.partition.computing` installs the partition of a mesh. Without it there is one device with all data.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
from haliax import Axis, NamedArray


class Shard:
    """One of the devices that compute together, with its part of each array: this one is the only device, which has all
    data, so nothing is communicated. A mesh has its own (`halcyon.parallel.partition.MeshShard`).
    """

    def gathered(self, x: NamedArray) -> NamedArray:
        """A parameter in the form that computations use, gathered from the part that this device stores."""
        return x

    def reduced(self, x: NamedArray) -> NamedArray:
        """Sum a parameter's gradient over the whole batch and all positions.

        Returns the part that this device stores.
        """
        return x

    def scattered(self, x: NamedArray) -> NamedArray:
        """The transpose of `gathered`: the sum over the devices that gather a parameter together.

        Returns the part that this one stores.
        """
        return x

    def exchanged(self, axis: Axis, x: jax.Array) -> jax.Array:
        """Send the n-th of the equal parts of `x`, along its first dimension, to the device with the n-th part of a
        logical axis.

        Returns the parts that come from the devices, in their order.
        """
        del axis
        return x

    def sum_over_batch(self, x: jax.Array) -> jax.Array:
        """The sum over all parts of the batch and of its positions."""
        return x

    def sum_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The sum over all parts of a logical axis."""
        del axis
        return x

    def max_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The maximum over all parts of a logical axis."""
        del axis
        return x

    def part(self, axis: Axis) -> tuple[Axis, jax.Array | int]:
        """This device's part of a logical axis, and the index of its first element in the whole axis."""
        return axis, 0

    def sent(self, axis: Axis, x: jax.Array, to: Sequence[int]) -> jax.Array:
        """What this device receives when the owner of part i of a logical axis sends its `x` to the owner of part
        ``to[i]``.

        Each part receives once.
        """
        del axis, to
        return x


@dataclass(frozen=True)
class Result:
    """How a result of `by_device` is sharded.

    Attributes:
        axes: The names of its axes; empty for a scalar.
        parameter: True: sharded like a stored parameter. False: like an activation.
    """

    axes: tuple[str, ...] = ()
    parameter: bool = False


class Partition:
    """How the computation of a model is divided among devices: this one is that of a single device, and of arrays that
    no mesh divides. A mesh has its own (`halcyon.parallel.partition.MeshPartition`).
    """

    def by_device(
        self,
        function: Callable[[Shard, Any, Any], Any],
        activations: Any,
        parameters: Any,
        results: Any,
        *,
        kernel: bool,
    ) -> Any:
        """See the function `by_device`. Calls the function once, with the complete arrays."""
        del results, kernel
        return function(Shard(), activations, parameters)

    def divided(self, x: NamedArray) -> NamedArray:
        """See the function `divided`."""
        return x

    def parts_of(self, axis: Axis) -> int:
        """The number of parts into which an axis of an activation is divided."""
        del axis
        return 1

    def unroll(self, iterations: int) -> bool:
        """Whether a loop with collectives in its body must be unrolled (see `halcyon.step.compilation`)."""
        del iterations
        return False


_partition: ContextVar[Partition] = ContextVar("halcyon-partition", default=Partition())  # noqa: B039 - it has no state


@contextlib.contextmanager
def partitioned(partition: Partition) -> Iterator[None]:
    """Trace models in this context with this partition."""
    token = _partition.set(partition)
    try:
        yield
    finally:
        _partition.reset(token)


def by_device(
    function: Callable[[Shard, Any, Any], Any], activations: Any, parameters: Any, results: Any, *, kernel: bool = False
) -> Any:
    """Call ``function(shard, activations, parameters)`` on each device with its parts of the two trees.

    Args:
        function: Gets arrays and axes with the sizes of this device's parts.
        activations: Tree of named arrays. An axis ``batch`` has the rows of one batch, an axis ``position`` the
            positions of a sequence. A mesh that cannot divide rows or positions evenly calls the function once, with
            the complete arrays.
        parameters: Tree of named arrays, in the form in which they are stored.
        results: Tree of `Result` with the structure of the function's result.
        kernel: The function calls a kernel, which XLA cannot partition. Default: XLA may partition it over axes of size
            1.
    """
    return _partition.get().by_device(function, activations, parameters, results, kernel=kernel)


def divided(x: NamedArray) -> NamedArray:
    """`x`, divided among the devices as an activation with its axes is."""
    return _partition.get().divided(x)


def parts_of(axis: Axis) -> int:
    """The number of parts into which the current partition divides an axis of an activation."""
    return _partition.get().parts_of(axis)


def unroll(iterations: int) -> bool:
    """Whether a loop with this number of iterations, and collectives in its body, must be unrolled."""
    return _partition.get().unroll(iterations)
