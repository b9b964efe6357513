"""How much of the time of a program's collectives is covered by computation, from the order of its instructions.

The module simulates one device. Instructions run one after the other, in the order of the scheduled program. A
collective with a start and a done takes its time beside them; the program waits at the done for what is left. So does
one whose parts are in several fusions: it starts with the first of them and is waited for at the last. A collective
that is one instruction is waited for whole. Collectives use the links one after the other.

Times are those of an ideal device: an instruction takes the longer of its matrix products at the peak rate and its
operands and results at the bandwidth of the memory; a collective takes the bytes that a device sends at the bandwidth
of the links. Kernels count by their bytes only, because a program does not say how many operations they do.
docs/design/programs.md says what this means for the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from halcyon.step.hlo.collectives import KINDS, Collective, collective, is_collective
from halcyon.step.hlo.contents import product_flops
from halcyon.step.hlo.module import Instruction, Module, Placed

_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)
"""Operations that take no time."""
_ASYNCHRONOUS = ("-start", "-update", "-done")
"""Copies and other work beside the program. It counts as no time, so that it covers nothing."""


@dataclass(frozen=True)
class Rates:
    """Speed of one device.

    Attributes:
        flops: Floating-point operations of matrix products in a second.
        memory: Bytes in a second that its memory reads or writes.
        links: Bytes in a second that it sends to the other devices of its slice.
    """

    flops: float
    memory: float
    links: float


@dataclass(frozen=True)
class Overlap:
    """Collectives and computation of one run of a program, in seconds of the ideal device.

    Attributes:
        computation: Time of all other instructions.
        collectives: Time of all collectives.
        waited: Time for which the program waits for collectives.
    """

    computation: float
    collectives: float
    waited: float

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.computation + other.computation, self.collectives + other.collectives, self.waited + other.waited
        )

    def __mul__(self, times: int) -> Overlap:
        return Overlap(self.computation * times, self.collectives * times, self.waited * times)

    @property
    def covered(self) -> float | None:
        """Share of the time of collectives that computation covers, 0 to 1. None: there are no collectives."""
        return None if self.collectives == 0 else max(0.0, 1 - self.waited / self.collectives)


_NOTHING = Overlap(0.0, 0.0, 0.0)


def sent_bytes(one: Collective, devices: int) -> float:
    """Bytes that a device sends in a collective, by the usual ring algorithms.

    Args:
        one: The collective.
        devices: Devices of the program, for a collective of all of them.
    """
    members = max(map(len, one.groups)) if one.groups else devices
    if one.kind in ("collective-permute", "collective-broadcast"):
        return one.total_bytes
    return (2 if one.kind == "all-reduce" else 1) * one.total_bytes * (members - 1) / max(members, 1)


def overlap(module: Module, rates: Rates, devices: int) -> Overlap:
    """Simulate one run of a scheduled program; see above.

    Args:
        module: The program.
        rates: Speed of a device.
        devices: Number of devices.
    """
    return _Simulation(module, rates, lambda one: sent_bytes(one, devices) / rates.links).run(module.entry)


class _Simulation:
    def __init__(self, module: Module, rates: Rates, seconds_of: Callable[[Collective], float]) -> None:
        self._module, self._rates, self._seconds_of = module, rates, seconds_of
        self._known: dict[str, Overlap] = {}

    def run(self, name: str) -> Overlap:
        """One run of a computation. Its asynchronous collectives end within it."""
        if name not in self._known:
            self._known[name] = self._run(name)
        return self._known[name]

    def _run(self, name: str) -> Overlap:
        now = links_free = 0.0
        total = _NOTHING
        ends: dict[str | int, float] = {}
        """When each asynchronous collective ends, by the name of its instruction, or by its number if fusions compute
        its parts.
        """
        lines = self._module.computations.get(name, ())
        last = {part: instruction.name for instruction in lines for part in self._parts(instruction)}
        for instruction in lines:
            opcode, is_own = instruction.opcode, is_collective(instruction)
            begun: dict[str | int, float] = {
                part: seconds for part, seconds in self._parts(instruction).items() if part not in ends
            }
            within = self._within(instruction) if opcode.endswith("-start") else []
            own = [collective(self._module, Placed(instruction, name))] if is_own else within
            if own:
                begun[instruction.name] = sum(map(self._seconds_of, own))
            for each, seconds in begun.items():
                links_free = max(now, links_free) + seconds
                ends[each] = links_free
            total += Overlap(0.0, sum(begun.values()), 0.0)
            if opcode.endswith("-update"):
                ends[instruction.name] = max((ends[each] for each in instruction.operands if each in ends), default=now)
            waits: list[str | int] = [part for part, where in last.items() if where == instruction.name]
            if opcode.endswith("-done"):
                waits += instruction.operands
            elif opcode in KINDS:
                waits.append(instruction.name)
            end = max((ends[each] for each in waits if each in ends), default=now)
            total += Overlap(0.0, 0.0, max(0.0, end - now))
            now = max(now, end)
            if is_own or opcode in _FREE or opcode.endswith(_ASYNCHRONOUS):
                continue
            inside = self._inside(name, instruction)
            if inside.collectives:  # they use the links after those that are in flight
                total += Overlap(0.0, 0.0, max(0.0, links_free - now))
                now = max(now, links_free)
            total += inside
            now += inside.computation + inside.waited
        return total + Overlap(0.0, 0.0, max(0.0, max(ends.values(), default=0.0) - now))

    def _parts(self, instruction: Instruction) -> dict[int, float]:
        """Seconds of the collectives of which a fusion computes a part, by their numbers."""
        within = self._within(instruction) if instruction.opcode == "fusion" else ()
        return {each.part_of: self._seconds_of(each) for each in within if each.part_of is not None}

    def _within(self, instruction: Instruction) -> list[Collective]:
        """The collectives of the computations that an instruction calls."""
        return [
            collective(self._module, Placed(line, called))
            for called in instruction.called
            for line in self._module.computations.get(called, ())
            if is_collective(line)
        ]

    def _inside(self, name: str, instruction: Instruction) -> Overlap:
        """The time of an instruction that is no collective itself."""
        if instruction.opcode == "while":
            trips = self._module.trips(instruction) or 1
            return sum((self.run(called) for called in instruction.called), start=_NOTHING) * trips
        if instruction.opcode in ("call", "conditional"):
            return max(
                (self.run(called) for called in instruction.called),
                key=lambda part: part.computation + part.waited,
                default=_NOTHING,
            )
        computation = self._computation(name, instruction)
        collectives = sum(self._seconds_of(each) for each in self._within(instruction) if each.part_of is None)
        return Overlap(
            computation, collectives, max(0.0, collectives - (computation if self._flops(name, instruction) else 0.0))
        )

    def _computation(self, name: str, instruction: Instruction) -> float:
        is_fused = instruction.opcode == "fusion"
        moved = fused_bytes(self._module, instruction) if is_fused else plain_bytes(self._module, name, instruction)
        return max(self._flops(name, instruction) / self._rates.flops, moved / self._rates.memory)

    def _flops(self, name: str, instruction: Instruction) -> float:
        """Operations of matrix products, those of 8 bits as half as many: their peak rate is twice as high."""
        flops = float(product_flops(self._module, name, instruction))
        if flops:
            narrow = any(
                array.dtype.startswith("f8") or array.dtype == "s8"
                for array in self._module.arrays(name, instruction)[:2]
            )
            return flops / 2 if narrow else flops
        called = instruction.called if instruction.opcode == "fusion" else ()
        return sum(self._flops(each, line) for each in called for line in self._module.computations.get(each, ()))


def plain_bytes(module: Module, name: str, instruction: Instruction) -> int:
    """Bytes that an instruction reads and writes, where it is no fusion."""
    results = sum(array.size_bytes for array in instruction.results)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * results
    operands = [array.size_bytes for array in module.arrays(name, instruction)]
    if instruction.opcode == "dynamic-update-slice" and len(operands) > 1:
        return 2 * operands[1]
    return results + sum(operands)


def fused_bytes(module: Module, instruction: Instruction) -> int:
    """Bytes that a fusion reads and writes.

    It reads only a part of an array that it slices, and writes only the part that it updates.
    """
    lines = [line for called in instruction.called for line in module.computations.get(called, ())]
    if not lines:
        return 0
    name = instruction.called[0]
    root = lines[-1]
    roots = [line for line in lines if line.name in root.operands] if root.opcode == "tuple" else [root]
    moved = 0
    for line in roots:
        arrays = module.arrays(name, line)
        updates = line.opcode == "dynamic-update-slice" and len(arrays) > 1
        moved += arrays[1].size_bytes if updates else sum(array.size_bytes for array in line.results)
    return moved + sum(_read_bytes(lines, line) for line in lines if line.opcode == "parameter")


def _read_bytes(lines: list[Instruction], array: Instruction) -> int:
    whole = sum(one.size_bytes for one in array.results)
    read = 0
    for user in (line for line in lines if array.name in line.operands):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            read += sum(one.size_bytes for one in user.results)
        elif user.opcode == "bitcast":
            read += _read_bytes(lines, user)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != array.name:
            return whole
    return min(read, whole)
