"""What is in a compiled program: calls of kernels and libraries, loops, and matrix products with their types."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from halcyon.step.hlo.module import BODY, Array, Instruction, Module, Placed, Trips, first_group

Phase = Literal["forward", "backward", "recomputed"]
"""Part of a step: the forward pass, the backward pass, or a forward operation that the backward pass computes again."""
SCOPES = ("attention", "experts", "delta_rule", "mlp", "embedding", "head", "optimizer")
"""Parts of a step that name their operations (``jax.named_scope``)."""
_SCOPE = re.compile(rf"[/(]({'|'.join(SCOPES)})(?=[/)]|$)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_WITHOUT_WORK = (
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
)
"""Targets that mark arrays and compute nothing."""
_MATRIX_LIBRARIES = ("__cublas$", "__cudnn$conv", "__onednn$matmul")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_NUMBERED = re.compile(r"(\.\d+|\.clone)+$")


@dataclass(frozen=True)
class Call:
    """Calls of one kernel or library function at one place of the program.

    Attributes:
        target: HLO's name of the function, such as ``mosaic_gpu_v2``.
        kernel: Name that the instructions have in the program. Kernels of one target differ in it.
        phase: Part of the step.
        scope: Part of the model; see `Loop.scope`.
        loops: Iterations of each loop around it, the outermost first. None: XLA does not know them.
        count: Number of its instructions.
    """

    target: str
    kernel: str
    phase: Phase
    scope: str
    loops: Trips
    count: int

    @property
    def is_product(self) -> bool:
        """Whether the function is a library's matrix product."""
        return self.target.startswith(_MATRIX_LIBRARIES)

    @property
    def times(self) -> int:
        """Calls in one run of the program. A loop whose iterations XLA does not know counts once."""
        return self.count * math.prod(trips or 1 for trips in self.loops)


@dataclass(frozen=True)
class Loop:
    """A loop of the program.

    Attributes:
        trips: Its iterations. None: the data decides, and on a GPU the host reads the condition after each iteration.
        outer: Iterations of each loop around it, the outermost first.
        operation: JAX's name of the loop, such as ``jit(train_step)/jvp()/while``. Empty: XLA made the loop.
        calls: Number of calls of kernels in an iteration, without those in loops inside it.
        products: Number of matrix products in an iteration, without those in loops inside it.
    """

    trips: int | None
    outer: Trips
    operation: str
    calls: int
    products: int

    @property
    def phase(self) -> Phase:
        """Part of the step."""
        return phase_of(self.operation)

    @property
    def scope(self) -> str:
        """Part of the model: the first of `SCOPES` in the name of the operation; empty if there is none."""
        return scope_of(self.operation)


@dataclass(frozen=True)
class Product:
    """Matrix products of one type at one depth of loops.

    Attributes:
        dtype: Type of their factors; the narrower one, if they differ.
        depth: Number of loops around them.
        count: Number of their instructions.
        times: Products in one run of the program.
        flops: Their floating-point operations in one run of the program: two for a multiplication and its addition.
    """

    dtype: str
    depth: int
    count: int
    times: int
    flops: int


def phase_of(operation: str) -> Phase:
    """The part of a step that JAX's name of an operation belongs to."""
    if "transpose(" not in operation:
        return "forward"
    return "recomputed" if "rematted_computation" in operation else "backward"


def scope_of(operation: str) -> str:
    """The part of a model that JAX's name of an operation belongs to; empty if it names none."""
    return first_group(_SCOPE, operation)


def calls(module: Module) -> tuple[Call, ...]:
    """The calls of kernels and libraries, in the order of the program."""
    found: Counter[tuple[str, str, Phase, str, Trips]] = Counter()
    for placed in module.placed:
        instruction = placed.instruction
        target = target_of(instruction)
        if target and target not in _WITHOUT_WORK:
            found[
                target,
                _NUMBERED.sub("", instruction.name),
                phase_of(instruction.operation),
                scope_of(instruction.operation),
                placed.loops,
            ] += 1
    return tuple(Call(*key, count) for key, count in found.items())


def target_of(instruction: Instruction) -> str:
    """The function that a custom call runs; empty for another instruction."""
    is_call = instruction.opcode.removesuffix("-start") == "custom-call"
    return first_group(_TARGET, instruction.attributes) if is_call else ""


def loops(module: Module) -> tuple[Loop, ...]:
    """The loops, in the order of the program."""
    return tuple(_loop(module, placed) for placed in module.placed if placed.instruction.opcode == "while")


def _loop(module: Module, placed: Placed) -> Loop:
    instruction = placed.instruction
    inside = list(_without_loops(module, first_group(BODY, instruction.attributes)))
    kernels = [target for line in inside if (target := target_of(line)) and target not in _WITHOUT_WORK]
    matrices = sum(target.startswith(_MATRIX_LIBRARIES) for target in kernels)
    return Loop(
        trips=module.trips(instruction),
        outer=placed.loops,
        operation=instruction.operation,
        calls=len(kernels) - matrices,
        products=matrices + sum(line.opcode in ("dot", "convolution") for line in inside),
    )


def _without_loops(module: Module, name: str) -> Iterable[Instruction]:
    for instruction in module.computations.get(name, ()):
        yield instruction
        for called in () if instruction.opcode == "while" else instruction.called:
            yield from _without_loops(module, called)


def products(module: Module) -> tuple[Product, ...]:
    """The matrix products by type and depth, those with the most operations first."""
    found: dict[tuple[str, int], list[int]] = {}
    for placed in module.placed:
        if operations := product_flops(module, placed.instruction):
            factors = module.arrays(placed.instruction)[:2]
            dtype = min(
                (array.dtype for array in factors), key=lambda dtype: Array(dtype, (8,)).size_bytes, default="unknown"
            )
            row = found.setdefault((dtype, len(placed.loops)), [0, 0, 0])
            row[0] += 1
            row[1] += placed.times
            row[2] += placed.times * operations
    rows = [Product(dtype, depth, *numbers) for (dtype, depth), numbers in found.items()]
    return tuple(sorted(rows, key=lambda row: -row.flops))


def product_flops(module: Module, instruction: Instruction) -> int:
    """Floating-point operations of an instruction that is a matrix product; 0 for another one.

    On TPUs XLA writes products as convolutions, with the batch of a product as a dimension of the window.
    """
    library = target_of(instruction).startswith(_MATRIX_LIBRARIES)
    if instruction.opcode not in ("dot", "convolution") and not library:
        return 0
    factors = module.arrays(instruction)
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, factors)
    if not factors or not instruction.results:
        return 0
    axes = [int(axis) for axis in re.findall(r"\d+", first_group(_CONTRACTED, instruction.attributes))]
    if library and not axes:
        axes = [len(factors[0].shape) - 1]
    return 2 * instruction.results[0].size * math.prod(factors[0].shape[axis] for axis in axes)


def _convolution_flops(instruction: Instruction, arrays: list[Array]) -> int:
    """Operations of a convolution: a window's position counts only where it meets the input, as in XLA's own analysis
    of cost.
    """
    labels = _LABELS.search(instruction.attributes)
    if labels is None or len(arrays) < 2 or not instruction.results:
        return 0
    left, right, out = labels[1], labels[2], labels[3]
    fields = dict(part.split("=") for part in first_group(_WINDOW, instruction.attributes).split())
    met = 1
    for number, label in enumerate(sorted(label for label in out if label.isdigit())):
        sizes = (
            arrays[0].shape[left.index(label)],
            arrays[1].shape[right.index(label)],
            instruction.results[0].shape[out.index(label)],
        )

        def at(name: str, default: str, number: int = number) -> str:
            return fields[name].split("x")[number] if name in fields else default

        met *= _meetings(
            *sizes,
            stride=int(at("stride", "1")),
            before=int(at("pad", "0_0").split("_")[0]),
            spread=int(at("lhs_dilate", "1")),
            apart=int(at("rhs_dilate", "1")),
        )
    features = instruction.results[0].shape[out.index("b")] * instruction.results[0].shape[out.index("f")]
    return 2 * features * arrays[1].shape[right.index("i")] * met


def _meetings(inputs: int, window: int, outputs: int, *, stride: int, before: int, spread: int, apart: int) -> int:
    """Pairs of an output and a place of the window at which the input has an element, along one dimension."""
    outer = np.arange(outputs)[:, None] * stride
    if outputs * window > 1 << 24:  # only large pictures have so many
        return outputs * window
    places = outer + np.arange(window)[None, :] * apart - before
    return int(np.count_nonzero((places >= 0) & (places % spread == 0) & (places <= (inputs - 1) * spread)))
