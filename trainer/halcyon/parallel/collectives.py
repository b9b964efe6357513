"""Times collectives over the devices of a run, and names an island whose links are slow.

An island is what fast links connect: the devices of a host, or of a slice of TPUs. A collective may run within each
island, between the devices of the same place in all islands, or over all devices.

A collective ends when its slowest member ends, so it names none. So islands also exchange data in pairs, several pairs
at the same time and each island in one of them, and in the next round with others. An exchange is slow if either side
is; an island is slow if all its exchanges are. With two islands there is only one exchange, so none can be named.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from halcyon.parallel.process_group import ProcessGroup
from halcyon.parallel.stragglers import slower

Kind = Literal["all-reduce", "all-gather", "reduce-scatter"]
Over = Literal["within", "between", "all"]
SIZES = tuple(mebibytes << 20 for mebibytes in (1, 16, 256))
"""Bytes of the larger array of a collective on one device."""
EXCHANGED_BYTES = 16 << 20
FEWEST = 3
"""Islands among which the slow one can be told: of two, both see the same exchange."""
FACTOR = 2.0
"""An island is slow if its fastest exchange takes more than this multiple of that of the others."""

AXES: dict[Over, tuple[str, ...]] = {"within": ("member",), "between": ("island",), "all": ("island", "member")}
KINDS: dict[Kind, tuple[Callable[[Any, tuple[str, ...]], Any], bool, float]] = {
    "all-reduce": (jax.lax.psum, True, 2.0),
    "all-gather": (lambda x, axes: jax.lax.all_gather(x, axes, axis=1, tiled=True), False, 1.0),
    "reduce-scatter": (lambda x, axes: jax.lax.psum_scatter(x, axes, scatter_dimension=1, tiled=True), True, 1.0),
}
"""The collective, whether its argument is the larger array, and the parts of the array that cross a device's links, as
a multiple of (n - 1) / n.
"""
_SECONDS, _MOST_TIMES = 0.3, 20
"""Time of a measurement, if a collective is short, and how often it then runs at most."""
_TRIES, _ROUNDS = 3, 9


@dataclass(frozen=True)
class Measured:
    """A collective that was measured.

    Attributes:
        kind: Which one.
        over: Which devices took part together.
        devices: Their number.
        size_bytes: The larger array on one device.
        seconds: Duration on the slowest process.
        slow: With ``within``, the islands in which it is slow, each with its duration as a multiple of that of the
            others.
        bus_bandwidth: Bytes in a second over the links of each device: the "bus bandwidth" of NVIDIA's nccl-tests
            (doc/PERFORMANCE.md), which does not depend on the number of devices.
    """

    kind: Kind
    over: Over
    devices: int
    size_bytes: int
    seconds: float
    slow: dict[int, float]

    @property
    def bus_bandwidth(self) -> int:
        """See the class."""
        return round(KINDS[self.kind][2] * (self.devices - 1) / self.devices * self.size_bytes / self.seconds)


class Islands:
    """The devices of a run, as [island, member].

    Args:
        devices: All devices, those of an island side by side: [device].
        islands: Number of islands.
        processes: The processes. All call each method together.
    """

    def __init__(self, devices: Sequence[Any], islands: int, processes: ProcessGroup) -> None:
        grid = np.array(devices, dtype=object).reshape(islands, -1)
        self._mesh = Mesh(grid, AXES["all"], axis_types=(AxisType.Auto,) * 2)
        self._processes = processes
        self.members = [sorted({device.process_index for device in row}) for row in grid]
        """The processes of each island."""

    def measure(self, kind: Kind, over: Over, size_bytes: int) -> Measured | None:
        """Measure a collective. None: fewer axes have the same devices, or there is one device."""
        axes, (collective, is_larger, _) = AXES[over], KINDS[kind]
        if 1 in (sizes := [self._mesh.shape[axis] for axis in axes]):
            return None
        devices = math.prod(sizes)
        share = max(1, size_bytes // 4 // devices)
        argument = self._random(share * devices if is_larger else share)
        run = self._compiled(lambda x: collective(x, axes), argument)
        (once,) = self._processes.greatest(_seconds(run, argument, 1))
        seconds = self._of_islands([_seconds(run, argument, max(1, min(_MOST_TIMES, int(_SECONDS / once))))])[0]
        slow = slower(seconds, FACTOR) if over == "within" else {}
        return Measured(kind, over, devices, 4 * share * devices, float(seconds.max()), slow)

    def exchange(self) -> dict[int, float]:
        """The slow islands, each with the duration of its fastest exchange as a multiple of that of the others. With
        fewer than `FEWEST` islands, none.
        """
        if (islands := len(self.members)) < FEWEST:
            return {}
        argument, ready = self._random(EXCHANGED_BYTES // 4), self._random(1)
        meet = self._compiled(lambda x: jax.lax.psum(x, AXES["all"]), ready)
        mine: list[float] = []
        for partners in pairs(islands):
            moves = [(one, other) for one, other in enumerate(partners) if one != other]
            run = self._compiled(lambda x, moves=moves: jax.lax.ppermute(x, "island", moves), argument)
            tries: list[float] = []
            for _ in range(_TRIES):
                jax.block_until_ready(meet(ready))
                tries.append(_seconds(run, argument, 1))
            mine.append(min(tries))
        return slow_islands(self._of_islands(mine))

    def _of_islands(self, mine: Sequence[float]) -> np.ndarray:
        """The greatest number of the processes of each island: [number, island]. A collective."""
        everyone = self._processes.gathered(mine)
        return np.stack([everyone[members].max(0) for members in self.members], 1)

    def _random(self, count: int) -> jax.Array:
        """An array [device, count] with a row on each device."""
        sharding = NamedSharding(self._mesh, PartitionSpec(AXES["all"]))
        row = np.random.default_rng(0).random((1, count), np.float32)
        return jax.make_array_from_callback((self._mesh.size, count), sharding, lambda _: row)

    def _compiled(self, function: Callable[[Any], Any], argument: jax.Array) -> Callable[[jax.Array], jax.Array]:
        spec = PartitionSpec(AXES["all"])
        each = jax.shard_map(function, mesh=self._mesh, in_specs=spec, out_specs=spec, check_vma=False)
        run = jax.jit(each).lower(argument).compile()
        jax.block_until_ready(run(argument))  # the first call connects the devices
        return run


def pairs(islands: int) -> list[list[int]]:
    """For some rounds, the partner of each island; itself: it has none in this round. Each pair meets at most once."""
    return [[(number - island) % islands for island in range(islands)] for number in range(min(islands, _ROUNDS))]


def slow_islands(seconds: np.ndarray) -> dict[int, float]:
    """The islands that are slow in all their exchanges.

    Args:
        seconds: Duration in each round of `pairs`, as each island saw it: [round, island]. The side that began later
            saw only the exchange, so the shorter one counts.
    """
    rounds, islands = seconds.shape
    partners = np.array(pairs(islands))[:rounds]
    both = np.minimum(seconds, np.take_along_axis(seconds, partners, 1))
    both[partners == np.arange(islands)] = np.inf
    return slower(both.min(0), FACTOR)


def _seconds(run: Callable[[jax.Array], jax.Array], argument: jax.Array, times: int) -> float:
    """Seconds of each of some calls on this process."""
    began = time.perf_counter()
    found = argument
    for _ in range(times):
        found = run(argument)
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / times
