"""An optimised HLO module, parsed from its text: computations, instructions, loops, and how often each instruction
runs.

The text has one line for each instruction: ``%name = type opcode(operands), attributes``. A computation is a block of
such lines; the instructions of a scheduled module run in the order of the lines.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALL = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_SHAPE = re.compile(r"\b(pred|bf16|f[48]\w+|[cfsu]\d+)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OPERATION = re.compile(r'\bop_name="([^"]*)"')


Trips = tuple[int | None, ...]
"""Iterations of loops, the outermost first. None: XLA does not know them."""


@dataclass(frozen=True)
class Array:
    """An array of a program, on one device.

    Attributes:
        dtype: Type in HLO's notation, such as ``bf16``.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes."""
        bits = _BITS.get(self.dtype) or int(re.sub(r"^[a-z](\d+).*", r"\1", self.dtype))
        return self.size * bits // 8


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: Its name in the module.
        computation: Name of its computation.
        opcode: Its operation, such as ``fusion``.
        results: The arrays of its result; several for a tuple.
        operands: Names of its operands.
        literal: The text between its parentheses.
        attributes: The text after its operands.
    """

    name: str
    computation: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def operation(self) -> str:
        """JAX's name of the operation, with the functions and transformations around it.

        Empty: XLA made the instruction.
        """
        return first_group(_OPERATION, self.attributes)

    @property
    def result_bytes(self) -> int:
        """Bytes of its results."""
        return sum(array.size_bytes for array in self.results)

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs."""
        found = _CALL.findall(self.attributes)
        return tuple(
            each.strip().lstrip("%") for one, several in found for each in (several.split(",") if several else [one])
        )


@dataclass(frozen=True)
class Placed:
    """An instruction where it runs.

    Attributes:
        instruction: The instruction.
        loops: Iterations of each loop around it, the outermost first. None: XLA does not know them.
    """

    instruction: Instruction
    loops: Trips = ()

    @property
    def times(self) -> int:
        """How often a device runs it in one run of the program.

        A loop whose iterations XLA does not know counts once.
        """
        return math.prod(trips or 1 for trips in self.loops)


@dataclass(frozen=True)
class Module:
    """A parsed module.

    Attributes:
        computations: The instructions of each computation, by its name.
        entry: Name of the computation that the program begins with.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    _by_name: dict[str, dict[str, Instruction]] = field(default_factory=dict[str, dict[str, Instruction]])

    def inside(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of the computations that an instruction runs."""
        return [line for called in instruction.called for line in self.computations.get(called, ())]

    def arrays(self, instruction: Instruction) -> list[Array]:
        """The arrays of all operands of an instruction."""
        name = instruction.computation
        if name not in self._by_name:
            self._by_name[name] = {one.name: one for one in self.computations[name]}
        known = self._by_name[name]
        written = read_arrays(instruction.literal)  # some versions of XLA write the types of operands
        return written or [array for name in instruction.operands if name in known for array in known[name].results]

    def trips(self, loop: Instruction) -> int | None:
        """Iterations of a ``while`` loop: as XLA states them, else the constant that its condition compares a counter
        with. None: neither.

        XLA for TPUs states no number, and its condition may be a fusion with the constant as its operand.
        """
        if stated := _TRIPS.search(loop.attributes):
            return int(stated[1])
        lines = self.computations.get(first_group(_CONDITION, loop.attributes), ())
        limits = [
            one
            for one in lines
            if one.opcode == "constant" and one.results[0].dtype in ("s32", "u32") and one.literal.isdigit()
        ]
        compares = [one for one in lines if "direction=LT" in one.attributes or one.opcode == "fusion"]
        if len(limits) != 1 or not compares:
            return None
        counter = next(
            (one for one in lines if one.opcode == "get-tuple-element" and one.name in compares[-1].operands), None
        )
        return -(-int(limits[0].literal) // self._stride(first_group(BODY, loop.attributes), counter))

    def _stride(self, body: str, counter: Instruction | None) -> int:
        """What an iteration adds to the counter of a loop: a constant in the loop's body, else 1.

        Args:
            body: Name of the computation of an iteration.
            counter: The instruction of the condition that takes the counter from the loop's state. None: not known.
        """
        index = _INDEX.search(counter.attributes) if counter else None
        known = {one.name: one for one in self.computations.get(body, ())}
        new = next(iter(reversed(known.values())), None)
        if index is None or new is None or new.opcode != "tuple" or int(index[1]) >= len(new.operands):
            return 1
        adding = known.get(new.operands[int(index[1])])
        added = (
            [known[name] for name in adding.operands if name in known]
            if adding is not None and adding.opcode == "add"
            else []
        )
        return next((int(one.literal) for one in added if one.opcode == "constant" and one.literal.isdigit()), 1)

    @cached_property
    def fused(self) -> frozenset[str]:
        """Names of the computations that fusions compute as one operation."""
        lines = (one for lines in self.computations.values() for one in lines)
        return frozenset(called for one in lines if one.opcode == "fusion" for called in one.called)

    @cached_property
    def placed(self) -> tuple[Placed, ...]:
        """All instructions that the program runs, each as often as a computation calls it."""
        return tuple(self._walk(self.entry, ()))

    def _walk(self, name: str, loops: Trips) -> Iterator[Placed]:
        for one in self.computations.get(name, ()):
            yield Placed(one, loops)
            inside = (*loops, self.trips(one)) if one.opcode == "while" else loops
            for called in one.called:
                yield from self._walk(called, inside)


def parse(program: str) -> Module:
    """Parse an optimised HLO module, given as text."""
    lines: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in program.splitlines():
        if found := _COMPUTATION.match(line):
            name = found[2]
            lines[name] = []
            entry = name if found[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            if one := _instruction(match[1], name, f" {match[2]}"):
                lines[name].append(one)
        elif line == "}" or line.startswith("}, execution_thread"):
            name = ""
        elif name and lines[name]:  # metadata of a kernel may have several lines
            lines[name][-1] = replace(lines[name][-1], attributes=lines[name][-1].attributes + line)
    return Module({name: tuple(found) for name, found in lines.items()}, entry)


def _instruction(name: str, computation: str, text: str) -> Instruction | None:
    opcode = _OPCODE.search(text)
    if opcode is None:
        return None
    literal, _, attributes = text[opcode.end() :].partition(")")
    return Instruction(
        name,
        computation,
        opcode[1],
        tuple(read_arrays(text[: opcode.start()])),
        tuple(_NAME.findall(literal)),
        literal.strip(),
        attributes,
    )


def first_group(pattern: re.Pattern[str], text: str) -> str:
    """The first group of a pattern where it is in a text; empty: it is not."""
    found = pattern.search(text)
    return found[1] if found else ""


def read_arrays(text: str) -> list[Array]:
    """The arrays whose types stand in a text."""
    return [
        Array(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _SHAPE.findall(text)
    ]
