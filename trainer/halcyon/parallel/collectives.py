"""The collectives of a compiled program, read from its optimised HLO: the bytes, the loops and the mesh axes of each.

HLO numbers the devices of a program in the order of the mesh. A collective names the groups of devices that exchange data; the mesh axes
along which the members of a group differ are the axes of the collective.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALL = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|collective-permute|collective-broadcast)(-start)?\("
)
_SHAPE = re.compile(r"\b(pred|bf16|f8\w+|[cfsu]\d+)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_LIMIT = re.compile(r"compare\(.*%([\w.\-]+)\), direction=LT")
_SCATTERING = "all-reduce-scatter"
"""XLA for TPUs calls a computation so that adds up an array and takes one part of it: a reduce-scatter."""
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=" + _IOTA)
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(" + _IOTA + r"\))? \{([^}]*)\}")
_MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: Its HLO operation, such as ``all-reduce``.
        dtype: Type in HLO's notation, such as ``bf16``.
        shape: Shape of its largest array, operand or result, on one device.
        depth: Number of loops around it.
        times: How often a device runs it in one run of the program. A loop whose iterations XLA does not know counts once.
        groups: The devices of each group that exchanges data; empty: all together. None: not known.
        channel: Its number in the program; None if it has none. Parts of one asynchronous collective have the same number.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    depth: int
    times: int = 1
    groups: tuple[tuple[int, ...], ...] | None = ()
    channel: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its largest array on one device: the full array that is gathered, reduced or scattered."""
        return math.prod(self.shape) * _bits(self.dtype) // 8

    def axes(self, names: Sequence[str], sizes: Sequence[int]) -> tuple[str, ...]:
        """The mesh axes along which a group exchanges data; empty if each group has one device; ``unknown`` if the groups are not known.

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


def collectives(program: str) -> list[Collective]:
    """All collectives of an optimised HLO module, given as text."""
    lines: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            name = found[2]
            lines[name] = []
            entry = name if found[1] else entry
        elif name:
            lines[name].append(line)
    return list(_walk(lines, entry, 0, 1))


def _walk(lines: dict[str, list[str]], name: str, depth: int, times: int) -> Iterator[Collective]:
    arrays: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for line in lines[name]:
        called = [each.strip().lstrip("%") for one, several in _CALL.findall(line) for each in (several.split(",") if several else [one])]
        if found := _COLLECTIVE.search(line):
            own = _shapes(line)  # results, and operands if HLO writes their shapes
            operands = line[found.end() :].partition(")")[0]
            own += [array for each in re.findall(r"%([\w.\-]+)", operands) for array in arrays.get(each, [])]
            dtype, shape = max(own or [("u8", (0,))], key=lambda array: math.prod(array[1]) * _bits(array[0]))
            kind = "reduce-scatter" if name.startswith(_SCATTERING) else found[2]
            channel = _CHANNEL.search(line)
            yield Collective(kind, dtype, shape, depth, times, _groups(line), int(channel[1]) if channel else None)
            continue
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            arrays[match[1]] = _shapes(match[2].partition("(")[0] if not match[2].startswith("(") else match[2].partition(") ")[0])
        loop = re.search(r" while\(", line) is not None
        trips = _trips(lines, line) if loop else 1
        for each in called:
            if each in lines:
                yield from _walk(lines, each, depth + loop, times * trips)


def _trips(lines: dict[str, list[str]], loop: str) -> int:
    """Iterations of a loop: as XLA states them, else the constant that its condition compares a counter with; 1 if there is neither."""
    if stated := _TRIPS.search(loop):
        return int(stated[1])
    condition = _CONDITION.search(loop)
    text = "\n".join(lines.get(condition[1], ())) if condition else ""
    limit = _LIMIT.search(text)
    constant = re.search(rf"%{re.escape(limit[1])} = s32\[\]\S* constant\((\d+)\)", text) if limit else None
    return int(constant[1]) if constant else 1


def _groups(line: str) -> tuple[tuple[int, ...], ...] | None:
    """The groups of a collective in any of HLO's notations; empty: one group of all devices. None: another notation.

    ``{{0,1},{2,3}}`` lists them. ``[2,2]<=[2,2]T(1,0)`` numbers the devices, transposes them and cuts them into groups. ``mesh['a'=2,'b'=2]
    {'a'}`` arranges them in a mesh of its own; the members of a group differ along the axes in braces.
    """
    if listed := _LISTED.search(line):
        return tuple(_numbers(group) for group in re.findall(r"\{([\d,]*)\}", listed[1]) if group)
    if counted := _COUNTED.search(line):
        return _as_groups(_iota(counted[3], counted[4]).reshape(int(counted[1]), int(counted[2])))
    if (mesh := _MESH.search(line)) and ":" not in mesh[4]:
        axes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh[1])}
        within = [name for name in axes if f"'{name}'" in mesh[4]]
        order = [*(name for name in axes if name not in within), *within]
        count = math.prod(axes.values())
        devices = (_iota(mesh[2], mesh[3]) if mesh[2] else np.arange(count)).reshape(list(axes.values()))
        ordered = devices.transpose([list(axes).index(name) for name in order])
        return _as_groups(ordered.reshape(-1, math.prod(axes[name] for name in within)))
    return () if "replica_groups={}" in line or "replica_groups=" not in line else None


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """The numbers of all devices, from 0 on, in an array of these sizes, transposed into an order of its axes."""
    numbers = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return numbers.transpose(_numbers(order)) if order else numbers


def _as_groups(rows: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(one) for one in row) for row in rows)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _SHAPE.findall(text)]


def _bits(dtype: str) -> int:
    return 8 if dtype.startswith("f8") else _BITS.get(dtype) or int(dtype[1:])
