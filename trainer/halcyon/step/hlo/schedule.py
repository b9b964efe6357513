"""How much of the time of a program's collectives is covered by computation, from the order of its instructions.

The module simulates one device. Instructions run one after the other, in the order of the scheduled program. A
collective with a start and a done takes its time beside them; the program waits at the done for what is left. So does
one whose parts are in several fusions: it starts with the first of them and is waited for at the last. A collective
that is one instruction is waited for whole. Collectives use the links one after the other.

Times are those of an ideal device (`halcyon.step.hlo.work`); a collective takes the bytes that a device sends at the
bandwidth of the links. docs/design/programs.md says what this means for the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from halcyon.step.hlo.collectives import KINDS, Collective, Groups, collective, is_collective
from halcyon.step.hlo.module import Instruction, Module, Placed
from halcyon.step.hlo.work import ASYNCHRONOUS, CONTROL, FREE, Rates, flops_at_peak, moved_bytes


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
    members = max(map(len, _members(one, devices)))
    if one.kind in ("collective-permute", "collective-broadcast"):
        return one.total_bytes
    return (2 if one.kind == "all-reduce" else 1) * one.total_bytes * (members - 1) / max(members, 1)


def crosses(one: Collective, devices: int, island: int | None) -> bool:
    """Whether a collective exchanges data between islands; see `Rates`."""
    return island is not None and any(len(_islands(group, island)) > 1 for group in _members(one, devices))


def collective_seconds(one: Collective, devices: int, rates: Rates) -> float:
    """Time of a collective on an ideal device.

    Between islands each device of an island sends its share of what the island sends, beside the exchange within it.

    Args:
        one: The collective.
        devices: Devices of the program.
        rates: Speed of a device. Its `network` is known if the collective crosses islands.
    """
    within = sent_bytes(one, devices) / rates.links
    if not crosses(one, devices, rates.island) or rates.island is None:
        return rates.latency + within
    members = max(_members(one, devices), key=len)
    islands = len(_islands(members, rates.island))
    if one.kind in ("collective-permute", "collective-broadcast"):
        return rates.latency + one.total_bytes / (rates.network or rates.links)
    times = 2 if one.kind == "all-reduce" else 1
    across = times * one.total_bytes * (islands - 1) / islands / (len(members) / islands)
    return rates.latency + max(within if len(members) > islands else 0.0, across / (rates.network or rates.links))


def _members(one: Collective, devices: int) -> Groups:
    return one.groups or (tuple(range(devices)),)


def _islands(members: Iterable[int], island: int) -> set[int]:
    return {member // island for member in members}


def overlap(module: Module, rates: Rates, devices: int) -> Overlap:
    """Simulate one run of a scheduled program; see above.

    Args:
        module: The program.
        rates: Speed of a device.
        devices: Number of devices.
    """
    return _Simulation(module, rates, lambda one: collective_seconds(one, devices, rates)).run(module.entry)


@dataclass(eq=False)
class _Simulation:
    module: Module
    rates: Rates
    seconds_of: Callable[[Collective], float]

    def __post_init__(self) -> None:
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
        lines = self.module.computations.get(name, ())
        last = {part: instruction.name for instruction in lines for part in self._parts(instruction)}
        for instruction in lines:
            opcode, is_own = instruction.opcode, is_collective(instruction)
            begun: dict[str | int, float] = {
                part: seconds for part, seconds in self._parts(instruction).items() if part not in ends
            }
            within = self._within(instruction) if opcode.endswith("-start") else []
            own = [collective(self.module, Placed(instruction))] if is_own else within
            if own:
                begun[instruction.name] = sum(map(self.seconds_of, own))
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
            if is_own or opcode in FREE or opcode.endswith(ASYNCHRONOUS):
                continue
            inside = self._inside(instruction)
            if inside.collectives:  # they use the links after those that are in flight
                total += Overlap(0.0, 0.0, max(0.0, links_free - now))
                now = max(now, links_free)
            total += inside
            now += inside.computation + inside.waited
        return total + Overlap(0.0, 0.0, max(0.0, max(ends.values(), default=0.0) - now))

    def _parts(self, instruction: Instruction) -> dict[int, float]:
        """Seconds of the collectives of which a fusion computes a part, by their numbers."""
        within = self._within(instruction) if instruction.opcode == "fusion" else ()
        return {each.part_of: self.seconds_of(each) for each in within if each.part_of is not None}

    def _within(self, instruction: Instruction) -> list[Collective]:
        """The collectives of the computations that an instruction calls."""
        return [
            collective(self.module, Placed(line)) for line in self.module.inside(instruction) if is_collective(line)
        ]

    def _inside(self, instruction: Instruction) -> Overlap:
        """The time of an instruction that is no collective itself."""
        if instruction.opcode == "while":
            trips = self.module.trips(instruction) or 1
            return sum((self.run(called) for called in instruction.called), start=_NOTHING) * trips
        if instruction.opcode in CONTROL:
            return max(
                (self.run(called) for called in instruction.called),
                key=lambda part: part.computation + part.waited,
                default=_NOTHING,
            )
        flops = flops_at_peak(self.module, instruction)
        moved = moved_bytes(self.module, instruction)
        computation = max(flops / self.rates.flops, moved / self.rates.memory)
        collectives = sum(self.seconds_of(each) for each in self._within(instruction) if each.part_of is None)
        return Overlap(computation, collectives, max(0.0, collectives - (computation if flops else 0.0)))
