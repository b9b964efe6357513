"""Many blocks as one module: their parameters have the axis ``layers`` in front, and one scan computes the blocks in
order.

So a program with 80 blocks has the same length, and compiles as fast, as one with a single block. Blocks with
parameters of one form that are computed in different ways (local and global attention) stay one stack, and
`Stack.scan_kinds` computes them. Blocks with different parameters (dense and expert layers) are a stack each; see
`halcyon.models.mixed_stacks`.

**Statistics of activations** between the blocks are computed in the forward pass of a training step. Blocks run inside
loops, and a step computes their gradients, with recomputation and microbatches. So a number of a block cannot simply be
returned. It leaves as a gradient: the model gets one more argument, the slots, on which its output does not depend.
`halcyon.models.statistics.tapped` passes an activation on unchanged, and its backward rule returns the statistics of
the activation as the gradient of the slot. The gradient of the slots then has the statistics of each block. Sums over
microbatches and devices are made as for each other gradient, so all statistics are sums. A model without slots has the
same program as before.

**Blocks apart**, as separate arrays, are for programs that compute few tokens. A scan over stacked blocks takes one
block out of the stack in each iteration. On a CPU, XLA copies its weights for that. A step that computes one token uses
each weight once, so the copy takes longer than the products. With the blocks apart, a program has a part for each block
and reads the weights where they are. It grows with the number of blocks, so `taken_apart` leaves long stacks as they
are. No weight is copied: on a CPU the arrays of the blocks are parts of the memory of the stack.

``haliax.nn.Stacked`` is not used: it names every parameter inside the scan (for its checkpoint policies), and JAX
treats a named value as computed. The forward pass would then write a second copy of all weights for the backward pass.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray

from halcyon.models.axes import LAYERS, is_named
from halcyon.models.parameters import dotted
from halcyon.models.partition import unroll
from halcyon.models.remat import Loop, checkpointed, scan
from halcyon.models.statistics import statistics_axis, statistics_of, tapped
from halcyon_api.spec.trainer import Remat

Block = TypeVar("Block", bound=eqx.Module)
Model = TypeVar("Model")

LONGEST_PATTERN = 16
"""Blocks of the longest pattern that `runs_of` looks for."""
RUN_COST = 2
"""The cost of a run, in blocks of a program: the copies of its part of the parameters."""
MOST_BLOCKS = 64
"""Blocks of the longest model that is taken apart: a program of more blocks would compile for minutes."""
LEAST_BYTES = 1 << 20
"""Least size of the stacks for which the copies matter.

A smaller model keeps its stacks, because their programs compile faster.
"""


class Stack(eqx.Module, Generic[Block]):
    """Blocks whose parameters have the axis `layers` in front.

    Attributes:
        layers: The number of blocks.
        stacked: The block.
        remat: What the forward pass keeps for the backward pass; see `with_loops`.
        unroll: Blocks in one iteration of the loop over them; see `with_loops`.
        slots: (layers, statistics) in a step that watches the outputs of the blocks; see `with_slots`.
        apart: Whether the blocks are apart, each without the axis `layers`: `stacked` is the first one.
        further: The other blocks, if they are apart.
    """

    layers: Axis = eqx.field(static=True)
    stacked: Block
    remat: Remat = eqx.field(static=True, default="none")
    unroll: int = eqx.field(static=True, default=1)
    slots: NamedArray | None = None
    apart: bool = eqx.field(static=True, default=False)
    further: tuple[Block, ...] = ()

    def scan(self, step: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any, inputs: Any = None) -> tuple[Any, Any]:
        """Compute ``carry, output = step(block, carry, input)`` for each block in order.

        Args:
            step: Computes one block.
            carry: A tree of arrays that goes from block to block, such as the residual stream.
            inputs: A tree of arrays with the input of each block, such as its part of a cache; they have a dimension
                without a name, of size `layers`, in front. None: no inputs.

        Returns:
            The last carry, and the outputs of all blocks in the form of `inputs`.
        """
        if self.apart:
            outputs: list[Any] = []
            for number in range(self.layers.size):
                given = jax.tree.map(lambda x, number=number: x[number], inputs)
                carry, output = step(self.block(number), carry, given)
                outputs.append(output)
            return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)
        loop = Loop(self.remat, self.layers.size, unroll=self.unroll, flat=unroll(self.layers.size))
        # In a loop, XLA cannot merge the forward and the backward computation, so only blocks outside of it need
        # `prevent_cse`.
        one = checkpointed(step, self.remat, prevent_cse=loop.merges)

        def body(carry: Any, at: tuple[Any, Any]) -> tuple[Any, Any]:
            (block, slot), given = at
            carry, output = one(block, carry, given)
            return tapped(carry, slot), output

        return scan(body, carry, (self.blocks, inputs), loop)

    def scan_kinds(self, kinds: Sequence[Any], step: Callable[..., Any], carry: Any, inputs: Any = ()) -> Any:
        """Compute ``carry = step(kind, block, carry, *inputs)`` for each block in order, where the kinds of the blocks
        follow a pattern.

        The blocks have parameters of one form, and their kinds decide how they are computed, such as with local or
        global attention. One scan repeats each run of a repeated pattern (see `runs_of`), so a program grows with its
        patterns, not with the number of blocks. With several runs, each scan gets a copy of its part of the parameters.

        Args:
            kinds: The kind of each block.
            step: Computes one block. It may treat its first argument as a constant.
            carry: A tree of arrays that goes from block to block.
            inputs: Trees of arrays with the inputs of each block, as in `scan`.
        """
        if self.apart:
            for number, kind in enumerate(kinds):
                given = jax.tree.map(lambda x, number=number: x[number], inputs)
                carry = step(kind, self.block(number), carry, *given)
            return carry
        blocks, runs = (self.blocks, inputs), runs_of(kinds)
        for run in runs:
            mine = blocks if len(runs) == 1 else jax.tree.map(lambda x, run=run: x[run.first : run.end], blocks)
            loop = Loop(self.remat, run.repetitions, len(run.pattern), self.unroll, unroll(run.repetitions))
            merges = loop.merges or (len(runs) > 1 and run.repetitions == 1)
            steps = [
                checkpointed(functools.partial(step, kind), self.remat, prevent_cse=merges) for kind in run.pattern
            ]

            def body(carry: Any, mine: Any, steps: Any = steps) -> tuple[Any, None]:
                for number, one in enumerate(steps):
                    own = mine if len(steps) == 1 else jax.tree.map(lambda x, number=number: x[number], mine)
                    (block, slot), given = own
                    carry = tapped(one(block, carry, *given), slot)
                return carry, None

            if len(run.pattern) > 1:
                mine = jax.tree.map(lambda x, run=run: x.reshape(run.repetitions, len(run.pattern), *x.shape[1:]), mine)
            carry, _ = scan(body, carry, mine, loop)
        return carry

    def block(self, number: int) -> Block:
        """One of the blocks, which are apart."""
        return self.further[number - 1] if number else self.stacked

    @property
    def blocks(self) -> tuple[Block, NamedArray | None]:
        """The blocks and their slots, as a scan over them takes them."""
        if self.apart:  # for a model of a user that scans by itself
            return jax.tree.map(
                lambda *parts: jnp.stack(parts), *(self.block(number) for number in range(self.layers.size))
            ), None
        return jax.tree.map(without_layers, (self.stacked, self.slots), is_leaf=is_named)


def with_loops(model: Model, remat: Remat = "none", unroll: int = 1) -> Model:
    """`model` with these loops over the blocks of its stacks. The result is the same up to rounding.

    A loop whose repetition has several unlike blocks computes whole repetitions. The last blocks, if they are fewer,
    follow the loop.

    Args:
        model: A model, or the shapes in its place.
        remat: See `halcyon.models.remat`.
        unroll: Blocks in one iteration.
    """
    return _changed(model, lambda stack: dataclasses.replace(stack, remat=remat, unroll=unroll))


def _changed(model: Model, change: Callable[[Stack[Any]], Stack[Any]]) -> Model:
    return jax.tree.map(lambda node: change(node) if _is_stack(node) else node, model, is_leaf=_is_stack)


@dataclass(frozen=True)
class Run:
    """Blocks in order whose kinds repeat a pattern.

    Attributes:
        first: The number of the first block, from 0.
        pattern: The kinds of one repetition.
        repetitions: How often the pattern follows itself.
    """

    first: int
    pattern: tuple[Any, ...]
    repetitions: int

    @property
    def end(self) -> int:
        """The number after the last block."""
        return self.first + len(self.pattern) * self.repetitions


def runs_of(kinds: Sequence[Any]) -> tuple[Run, ...]:
    """The kinds of all blocks as runs of repeated patterns, with the least cost: the blocks of all patterns, and
    `RUN_COST` for each run.

    26 blocks, of which each sixth is global, are the pattern of six 4 times, and that of one local block 2 times.
    """
    count = len(kinds)
    least: list[tuple[int, tuple[Run, ...]]] = [(0, ())] * (count + 1)
    agree = [
        [0] * (count + 1) for _ in range(LONGEST_PATTERN + 1)
    ]  # how many kinds from here on are those of `length` blocks later
    for first in range(count - 1, -1, -1):
        choices: list[tuple[int, tuple[Run, ...]]] = []
        for length in range(1, min(LONGEST_PATTERN, count - first) + 1):
            later = first + length
            same = later < count and kinds[first] == kinds[later]
            agree[length][first] = agree[length][first + 1] + 1 if same else 0
            run = Run(first, tuple(kinds[first:later]), 1 + agree[length][first] // length)
            blocks, rest = least[run.end]
            choices.append((RUN_COST + length + blocks, (run, *rest)))
        least[first] = min(choices, key=lambda choice: choice[0])
    return least[0][1]


def without_layers(parameter: NamedArray) -> NamedArray:
    """The same array without the name of its first dimension: a scan removes this dimension, and the rest matches the
    names.
    """
    if parameter.axis_names[0] != LAYERS:
        raise ValueError(f"a stacked parameter has the axis {LAYERS} in front, not {parameter.axis_names}")
    names = parameter.axis_names[1:]
    return jax.tree.unflatten(jax.tree.structure(NamedArray(parameter.array[0], names)), [parameter.array])


def stacks_of(model: Any) -> dict[str, Stack[Any]]:
    """The stacks of a model, or of its shapes, by their paths, such as ``blocks``."""
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_stack)[0]
    return {dotted(path): node for path, node in found if _is_stack(node)}


def empty_slots(model: Any, *, histograms: bool) -> dict[str, NamedArray]:
    """Slots for all stacks of a model: zeros, float32 [layers, statistics]; see `halcyon.models.statistics.sums_of`."""
    axis = statistics_axis(histograms=histograms)
    return {path: hax.zeros((stack.layers, axis), jnp.float32) for path, stack in stacks_of(model).items()}


def with_slots(model: Model, slots: Mapping[str, NamedArray]) -> Model:
    """`model` with these slots in its stacks, by their paths."""
    if not slots:
        return model
    return jax.tree_util.tree_map_with_path(
        lambda path, node: dataclasses.replace(node, slots=slots.get(dotted(path))) if _is_stack(node) else node,
        model,
        is_leaf=lambda node: _is_stack(node) or is_named(node),
    )


def activation_statistics(sums: Mapping[str, NamedArray]) -> dict[str, jax.Array]:
    """The statistics of the outputs of all blocks: ``STATISTIC/PATH``, [layers], a histogram [layers, bins].

    Args:
        sums: The gradient of `empty_slots`.
    """
    return {f"{name}/{path}": value for path, one in sums.items() for name, value in statistics_of(one.array).items()}


def taken_apart(model: Model) -> Model:
    """`model` with its blocks apart if that makes its programs faster: on one CPU device, with at least `LEAST_BYTES`
    of weights.
    """
    stacks = [stack for stack in stacks_of(model).values() if _can_be_apart(stack)]
    weights = [leaf for stack in stacks for leaf in jax.tree.leaves(stack)]
    fits = (
        sum(stack.layers.size for stack in stacks) <= MOST_BLOCKS
        and sum(leaf.nbytes for leaf in weights) >= LEAST_BYTES
    )
    return blocks_apart(model) if fits and all(_is_on_one_processor(leaf) for leaf in weights) else model


def blocks_apart(model: Model) -> Model:
    """`model` with its blocks apart."""
    return _changed(model, lambda stack: _stack_apart(stack) if _can_be_apart(stack) else stack)


def _can_be_apart(stack: Stack[Any]) -> bool:
    return not stack.apart and stack.slots is None


def _stack_apart(stack: Stack[Any]) -> Stack[Any]:
    leaves, structure = jax.tree.flatten(stack.stacked, is_leaf=is_named)
    parts = [_parts(leaf, stack.layers.size) for leaf in leaves]
    blocks = [jax.tree.unflatten(structure, of_block) for of_block in zip(*parts, strict=True)]
    return dataclasses.replace(stack, stacked=blocks[0], apart=True, further=tuple(blocks[1:]))


def _parts(stacked: NamedArray, count: int) -> list[NamedArray]:
    names = stacked.axis_names[1:]
    if not _is_on_one_processor(stacked.array):
        return [NamedArray(stacked.array[number], names) for number in range(count)]
    whole, device = np.asarray(stacked.array), next(iter(stacked.array.devices()))
    return [NamedArray(jax.device_put(whole[number], device, may_alias=True), names) for number in range(count)]


def _is_on_one_processor(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu"


def _is_stack(node: Any) -> bool:
    return isinstance(node, Stack)
