"""The collectives of a compiled program, read from its optimised HLO: the bytes, the loops and the mesh axes of each.

HLO numbers the devices of a program in the order of the mesh. A collective names the groups of devices that exchange
data; the mesh axes along which the members of a group differ are the axes of the collective.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halcyon.step.hlo.module import Array, Instruction, Module, Placed, parse

KINDS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "ragged-all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
"""The HLO operations that exchange data; an asynchronous one has the suffix ``-start``."""
_SCATTERING = "all-reduce-scatter"
"""XLA for TPUs calls a computation so that adds up an array and takes one part of it: a reduce-scatter."""
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=" + _IOTA)
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(" + _IOTA + r"\))? \{([^}]*)\}")
_MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")


Groups = tuple[tuple[int, ...], ...]
"""The devices that exchange data, in groups."""


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: Its HLO operation, such as ``all-reduce``.
        dtype: Type in HLO's notation, such as ``bf16``.
        shape: Shape of its largest array, operand or result, on one device.
        depth: Number of loops around it.
        times: How often a device runs it in one run of the program. A loop whose iterations XLA does not know counts
            once.
        groups: The devices of each group that exchanges data; empty: all together. None: not known.
        part_of: Number of the collective that it is one part of: XLA for TPUs splits a collective among several
            fusions. None: it is whole.
        further_bytes: Bytes of the arrays that it sends together with the largest one.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    depth: int
    times: int = 1
    groups: Groups | None = ()
    part_of: int | None = None
    further_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all its full arrays on one device."""
        return self.size_bytes + self.further_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of its largest array on one device: the full array that is gathered, reduced or scattered."""
        return Array(self.dtype, self.shape).size_bytes

    def axes(self, names: Sequence[str], sizes: Sequence[int]) -> tuple[str, ...]:
        """The mesh axes along which a group exchanges data; empty if each group has one device; ``unknown`` if the
        groups are not known.

        Args:
            names: Names of the mesh axes, outermost first.
            sizes: Their sizes.
        """
        if self.groups is None:
            return ("unknown",)
        groups = self.groups or (tuple(range(math.prod(sizes))),)
        differ = np.zeros(len(sizes), bool)
        for group in groups:
            places = np.array(np.unravel_index(np.array(group, int), tuple(sizes)))
            differ |= np.any(places != places[:, :1], axis=1)
        return tuple(name for name, found in zip(names, differ, strict=True) if found)


def is_collective(instruction: Instruction) -> bool:
    """Whether an instruction exchanges data between devices, or starts to."""
    return instruction.opcode.removesuffix("-start") in KINDS


def collectives(program: str | Module) -> list[Collective]:
    """All collectives of an optimised HLO module, given as text or parsed."""
    module = parse(program) if isinstance(program, str) else program
    return [collective(module, one) for one in module.placed if is_collective(one.instruction)]


def collective(module: Module, placed: Placed) -> Collective:
    """The collective of an instruction that is one."""
    one = placed.instruction
    operands = module.arrays(one)
    largest = max([*one.results, *operands] or [Array("u8", (0,))], key=lambda array: array.size_bytes)
    kind = one.opcode.removesuffix("-start")
    sent, received = (sum(array.size_bytes for array in arrays) for arrays in (operands, one.results))
    if one.opcode.endswith("-start") and kind != "all-reduce":
        received -= sent  # the result of the start has the operands too
    scatters = one.computation.startswith(_SCATTERING)
    channel = _CHANNEL.search(one.attributes) if one.computation in module.fused and not scatters else None
    return Collective(
        kind="reduce-scatter" if scatters else kind,
        dtype=largest.dtype,
        shape=largest.shape,
        depth=len(placed.loops),
        times=placed.times,
        groups=_groups(one.attributes),
        part_of=int(channel[1]) if channel else None,
        further_bytes=max(0, max(sent, received) - largest.size_bytes),
    )


def _groups(line: str) -> Groups | None:
    """The groups of a collective in any of HLO's notations; empty: one group of all devices. None: another notation.

    ``{{0,1},{2,3}}`` lists them. ``[2,2]<=[2,2]T(1,0)`` numbers the devices, transposes them and cuts them into groups.
    ``mesh['a'=2,'b'=2] {'a'}`` arranges them in a mesh of its own; the members of a group differ along the axes in
    braces.
    """
    if listed := _LISTED.search(line):
        return tuple(_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1]) if group)
    if counted := _COUNTED.search(line):
        return tuple(map(tuple, _iota(counted[3], counted[4]).reshape(int(counted[1]), int(counted[2])).tolist()))
    if (mesh := _MESH.search(line)) and ":" not in mesh[4]:
        axes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh[1])}
        within = [name for name in axes if f"'{name}'" in mesh[4]]
        order = [*(name for name in axes if name not in within), *within]
        count = math.prod(axes.values())
        devices = (_iota(mesh[2], mesh[3]) if mesh[2] else np.arange(count)).reshape(list(axes.values()))
        ordered = devices.transpose([list(axes).index(name) for name in order])
        return tuple(map(tuple, ordered.reshape(-1, math.prod(axes[name] for name in within)).tolist()))
    return () if "replica_groups={}" in line or "replica_groups=" not in line else None


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """The numbers of all devices, from 0 on, in an array of these sizes, transposed into an order of its axes."""
    numbers = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return numbers.transpose(_numbers(order)) if order else numbers


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
