"""What the instructions of a compiled program compute and move, and how long an ideal device takes for each part of a
step.

An instruction takes the longer of its matrix products at the peak rate and its operands and results at the bandwidth of
the memory. Kernels count by their bytes only, because a program does not say how many operations they do.
"""

from dataclasses import dataclass

from halcyon.step.hlo.collectives import is_collective
from halcyon.step.hlo.contents import product_flops, scope_of
from halcyon.step.hlo.module import Instruction, Module

FREE = (
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
CONTROL = ("while", "call", "conditional")
"""Operations that only run computations."""
OTHER = "other"
"""The part of a step without a name: projections of attention, norms, residual streams, copies."""
ASYNCHRONOUS = ("-start", "-update", "-done")
"""Copies and other work beside the program. It counts as no time, so that it covers nothing."""


@dataclass(frozen=True)
class Rates:
    """Speed of one device.

    Attributes:
        flops: Floating-point operations of matrix products in a second.
        memory: Bytes in a second that its memory reads or writes.
        links: Bytes in a second that it sends to the other devices of its island.
        network: Bytes in a second that it sends to other islands. None: not known, or there is one island.
        island: Devices that fast links connect: those of a slice of TPUs, or of a host of GPUs. Devices of an island
            have neighbouring numbers. None: all.
        latency: Seconds of a collective beside its bytes.
        launch: Seconds in which the host launches a kernel.
        dispatch: Seconds in which the host starts a step.
    """

    flops: float
    memory: float
    links: float
    network: float | None = None
    island: int | None = None
    latency: float = 0.0
    launch: float = 0.0
    dispatch: float = 0.0


@dataclass(frozen=True)
class Shares:
    """What programs reach of the peak speeds. Measured on an H100 (docs/performance.md), but for the links.

    Attributes:
        products: Share of the peak rate that large matrix products reach.
        kernels: Share of the peak rate that kernels of attention and experts reach.
        memory: Share of the memory's bandwidth.
        links: Share of the links' bandwidth that collectives reach.
        host_copy: Bytes in a second between a device and the memory of its host.
        narrow: Share of their own peak rate that large products in 8 bits reach.
    """

    products: float = 0.73
    kernels: float = 0.38
    memory: float = 0.85
    links: float = 0.8
    host_copy: float = 20e9
    narrow: float = 0.65


@dataclass(frozen=True)
class Work:
    """What a device computes for one part of a step.

    Attributes:
        part: One of `halcyon.step.hlo.contents.SCOPES`, or ``other``.
        flops: Operations of its matrix products, as `flops_at_peak` counts them. Those of kernels are not in it.
        moved_bytes: Bytes that its instructions read and write.
        product_seconds: Time of an ideal device for the instructions that its products bound.
        memory_seconds: The same for those that the memory bounds.
        kernels: Number of its instructions, each of which a GPU runs as a kernel.
    """

    part: str
    flops: float = 0.0
    moved_bytes: float = 0.0
    product_seconds: float = 0.0
    memory_seconds: float = 0.0
    kernels: int = 0


def work_by_part(module: Module, rates: Rates) -> tuple[Work, ...]:
    """The work of each part of a step, without collectives; the part with the most time first.

    Args:
        module: The program.
        rates: Speed of a device.
    """
    found: dict[str, Work] = {}
    for placed in module.placed:
        one = placed.instruction
        is_counted = one.computation not in module.fused and one.opcode not in (*FREE, *CONTROL)
        if not is_counted or one.opcode.endswith(ASYNCHRONOUS) or is_collective(one):
            continue
        flops = placed.times * flops_at_peak(module, one)
        moved = placed.times * moved_bytes(module, one)
        products, memory = flops / rates.flops, moved / rates.memory
        part = _part(module, one)
        row = found.get(part, Work(part))
        found[part] = Work(
            part,
            row.flops + flops,
            row.moved_bytes + moved,
            row.product_seconds + (products if products >= memory else 0.0),
            row.memory_seconds + (memory if products < memory else 0.0),
            row.kernels + placed.times,
        )
    return tuple(sorted(found.values(), key=lambda row: -(row.product_seconds + row.memory_seconds)))


def _part(module: Module, instruction: Instruction) -> str:
    """The part of an instruction: as its own name says, else as the products inside it; a fusion that XLA made has the
    part of what it computes last.
    """
    if part := scope_of(instruction.operation):
        return part
    lines = module.inside(instruction) if instruction.opcode == "fusion" else ()
    inside = [(product_flops(module, line), scope_of(line.operation)) for line in lines]
    named = [part for flops, part in inside if flops and part]
    named += [part for _, part in reversed(inside) if part and not instruction.operation]
    return named[0] if named else OTHER


def is_narrow(dtype: str) -> bool:
    """Whether a type in HLO's notation has a peak rate twice that of bfloat16."""
    return dtype.startswith("f8") or dtype == "s8"


def flops_at_peak(module: Module, instruction: Instruction) -> float:
    """Operations of the matrix products of an instruction, those of 8 bits as half as many: their peak rate is twice as
    high.

    Args:
        module: The program.
        instruction: The instruction; those that a fusion computes count for the fusion.
    """
    if flops := float(product_flops(module, instruction)):
        factors = module.arrays(instruction)[:2]
        return flops / 2 if any(is_narrow(array.dtype) for array in factors) else flops
    lines = module.inside(instruction) if instruction.opcode == "fusion" else ()
    return sum(flops_at_peak(module, line) for line in lines)


def moved_bytes(module: Module, instruction: Instruction) -> int:
    """Bytes that an instruction reads and writes.

    A fusion reads only a part of an array that it slices, and writes only the part that it updates.
    """
    if instruction.opcode == "fusion":
        lines = module.inside(instruction)
        read = sum(_read_bytes(module, lines, line) for line in lines if line.opcode == "parameter")
        return read + _written_bytes(module, lines)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * instruction.result_bytes
    operands = [array.size_bytes for array in module.arrays(instruction)]
    if instruction.opcode == "dynamic-update-slice" and len(operands) > 1:
        return 2 * operands[1]
    return instruction.result_bytes + sum(operands)


def _written_bytes(module: Module, lines: list[Instruction]) -> int:
    if not lines:
        return 0
    root = lines[-1]
    written = 0
    for line in [line for line in lines if line.name in root.operands] if root.opcode == "tuple" else [root]:
        arrays = module.arrays(line)
        if line.opcode == "fusion":
            written += _written_bytes(module, module.inside(line))
        elif line.opcode == "dynamic-update-slice" and len(arrays) > 1:
            written += arrays[1].size_bytes
        else:
            written += line.result_bytes
    return written


def _read_bytes(module: Module, lines: list[Instruction], array: Instruction) -> int:
    whole, read = array.result_bytes, 0
    for user in (line for line in lines if array.name in line.operands):
        if user.opcode == "gather":
            read += user.result_bytes
        elif user.opcode in ("slice", "dynamic-slice"):
            read += _read_bytes(module, lines, user) or user.result_bytes  # a gather may read a part of it
        elif user.opcode in ("bitcast", "convert"):
            results = user.result_bytes
            read += (_read_bytes(module, lines, user) or results) * whole // max(1, results)
        elif user.opcode == "fusion":
            inside = module.inside(user)
            read += sum(
                _read_bytes(module, inside, line)
                for line in inside
                if line.opcode == "parameter" and user.operands[int(line.literal)] == array.name
            )
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != array.name:
            return whole
    return min(read, whole)
