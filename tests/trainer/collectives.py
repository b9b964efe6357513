"""The collectives of a compiled program, read from its optimised HLO: each with its bytes and its loop depth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALL = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(-start)?\(")
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str
    """Its HLO operation, such as ``all-reduce``."""
    dtype: str
    """Type in HLO's notation, such as ``bf16``."""
    shape: tuple[int, ...]
    """Shape of its largest array, operand or result, on one device."""
    depth: int
    """Number of loops around it."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its largest array on one device: the full array that is gathered, reduced or scattered."""
        return math.prod(self.shape) * _bits(self.dtype) // 8


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
    return list(_walk(lines, entry, 0))


def _walk(lines: dict[str, list[str]], name: str, depth: int) -> Iterator[Collective]:
    arrays: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for line in lines[name]:
        called = [each.strip().lstrip("%") for one, several in _CALL.findall(line) for each in (several.split(",") if several else [one])]
        if found := _COLLECTIVE.search(line):
            own = _shapes(line)  # results, and operands if HLO writes their shapes
            operands = line[found.end() :].partition(")")[0]
            own += [array for each in re.findall(r"%([\w.\-]+)", operands) for array in arrays.get(each, [])]
            dtype, shape = max(own, key=lambda array: math.prod(array[1]) * _bits(array[0]))
            yield Collective(found[2], dtype, shape, depth)
            continue
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line):
            arrays[match[1]] = _shapes(match[2].partition("(")[0] if not match[2].startswith("(") else match[2].partition(") ")[0])
        deeper = depth + bool(re.search(r" while\(", line))
        for each in called:
            if each in lines:
                yield from _walk(lines, each, deeper)


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _SHAPE.findall(text)]


def _bits(dtype: str) -> int:
    return _BITS.get(dtype) or int(dtype[1:])
