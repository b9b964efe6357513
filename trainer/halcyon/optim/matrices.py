"""The hidden matrices of a model as stacks of equal shape, and the computation of each stack by all devices together.

A linear map has one or more input axes and one or more output axes (heads x head size). Its parameter [stacked...,
inputs..., outputs...] becomes [stack, rows, columns]; layers and experts are the stack. Parameters with equal rows and
columns form one stack, so a rule compiles one batch of products for each shape.

Products of whole matrices do not fit the sharding at rest, which splits each matrix. `Matrices.compute` therefore gives
each device whole matrices, but only its part of the stack (an all-to-all), and splits the results like the parameters
again. No device ever holds all matrices. The axis between slices is left out: every slice computes the whole stack,
because the network between slices is slow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.sharding import PartitionSpec

from halcyon.models.axes import EMBED, EXPERTS, is_named
from halcyon.models.parameters import Parameter, Role
from halcyon.optim.rule import Tree
from halcyon.parallel.axes import PARAMETER_AXES, mesh_axes, open_axes
from halcyon_api.spec.mesh import on

HIDDEN = frozenset({Role.MATRIX, Role.EXPERT})
"""The roles of hidden matrices: linear maps between features.

Head, router, adapters and convolutions are not hidden matrices.
"""


LARGEST_SIDE = 10_000
"""Largest side of a matrix with a factor of its own: a factor of a larger side, which is square, would not fit the
memory of a device.
"""


OfStacks = Callable[..., tuple[jax.Array, ...]]
"""A function of stacks of matrices that returns stacks."""


class Kind(Enum):
    """The form of an array that belongs to a matrix."""

    MATRIX = "matrix"
    """[stack, rows, columns]: the form of the matrix."""
    LEFT = "left"
    """[stack, rows, rows]: a factor on the side of the inputs; [stack, 1, 1] if there are more than `LARGEST_SIDE`."""
    RIGHT = "right"
    """[stack, columns, columns]: a factor on the side of the outputs, or [stack, 1, 1]."""


@dataclass(frozen=True)
class MatrixShape:
    """The form of one parameter as a stack of matrices."""

    parameter: Parameter

    @property
    def count(self) -> int:
        """Matrices of the stack."""
        return _size(self.parameter.stacked)

    @property
    def rows(self) -> int:
        """Product of the input axes."""
        return _size(self.parameter.inputs)

    @property
    def columns(self) -> int:
        """Product of the output axes."""
        return _size(self.parameter.outputs)

    def axes(self, kind: Kind) -> tuple[Axis, ...]:
        """The axes of an array of this kind. A factor has the axes of its side, then the same as one flat axis."""
        stacked, inputs, outputs = self.parameter.stacked, self.parameter.inputs, self.parameter.outputs
        if kind is Kind.MATRIX:
            return (*stacked, *inputs, *outputs)
        side = inputs if kind is Kind.LEFT else outputs
        name = "flat_inputs" if kind is Kind.LEFT else "flat_outputs"
        return (*stacked, *side, Axis(name, _size(side))) if _size(side) <= LARGEST_SIDE else (*stacked, Axis(name, 1))

    def shape(self, kind: Kind) -> tuple[int, int, int]:
        """[stack, rows, columns] of an array of this kind."""
        if kind is Kind.MATRIX:
            return self.count, self.rows, self.columns
        side = self.rows if kind is Kind.LEFT else self.columns
        return (self.count, side, side) if side <= LARGEST_SIDE else (self.count, 1, 1)

    def norm(self, x: NamedArray) -> NamedArray:
        """The Frobenius norm of each matrix."""
        return hax.sqrt(hax.sum(hax.square(x), (*self.parameter.inputs, *self.parameter.outputs)))

    def flat(self, x: NamedArray, kind: Kind) -> jax.Array:
        """An array of this kind as a stack of matrices, float32."""
        return x.rearrange(self.axes(kind)).array.astype(jnp.float32).reshape(self.shape(kind))

    def named(self, stack: jax.Array, kind: Kind) -> NamedArray:
        """A stack of matrices with the axes of its kind."""
        axes = self.axes(kind)
        return hax.named(stack.reshape([axis.size for axis in axes]), axes)


def hidden(parameters: Tree) -> Tree:
    """Which parameters are hidden matrices: a bool in the place of each `Parameter`."""
    return jax.tree.map(lambda one: one.role in HIDDEN and min(_size(one.inputs), _size(one.outputs)) > 1, parameters)


class Matrices:
    """The hidden matrices of a model.

    Args:
        parameters: A `Parameter` in the place of each hidden matrix, None in all other places.
    """

    def __init__(self, parameters: Tree) -> None:
        leaves, self._structure = jax.tree.flatten(parameters)
        self._forms = [MatrixShape(leaf) for leaf in leaves]

    def map(self, function: Callable[..., NamedArray], *trees: Tree) -> Tree:
        """``function(form, *arrays)`` of each parameter."""
        return self._tree(
            [function(*arguments) for arguments in zip(self._forms, *map(self._leaves, trees), strict=True)]
        )

    def new(self, kind: Kind, fill: Callable[[MatrixShape], jax.Array]) -> Tree:
        """An array of this kind for each parameter.

        Args:
            kind: Its kind.
            fill: Makes its matrices: an array that can be broadcast to `MatrixShape.shape`.
        """
        return self._tree([form.named(jnp.broadcast_to(fill(form), form.shape(kind)), kind) for form in self._forms])

    def compute_each(self, function: Callable[[jax.Array], jax.Array], tree: Tree) -> Tree:
        """`compute` with one matrix in and out, for a function with ``f(x.T) == f(x).T``: a matrix and its transpose
        share a stack.
        """
        return self.compute(lambda stack: (function(stack),), [(Kind.MATRIX, tree)], [Kind.MATRIX], turning=True)[0]

    def compute(
        self,
        function: OfStacks,
        arguments: Sequence[tuple[Kind, Tree]],
        results: Sequence[Kind],
        shared: Sequence[jax.Array] = (),
        *,
        turning: bool = False,
    ) -> tuple[Tree, ...]:
        """Compute a function of stacks, one call for each shape.

        Args:
            function: Gets a float32 stack for each argument, and `shared`; returns a stack for each result. It computes
                each matrix alone.
            arguments: Kind and arrays of each argument. The first one has the kind `Kind.MATRIX`; results of this kind
                get its axes.
            results: Kind of each result.
            shared: Further arguments, the same for every stack.
            turning: Whether stacks of tall matrices are transposed.
        """
        leaves = [self._leaves(tree) for _, tree in arguments]
        turned = [turning and form.rows > form.columns for form in self._forms]
        shapes = [
            (form.columns, form.rows) if turn else (form.rows, form.columns)
            for form, turn in zip(self._forms, turned, strict=True)
        ]

        def stack_of(index: int, kind: Kind, x: NamedArray) -> jax.Array:
            stack = self._forms[index].flat(x, kind)
            return stack.mT if turned[index] else stack

        computed: list[list[Any]] = [[None] * len(self._forms) for _ in results]
        for shape in dict.fromkeys(shapes):
            members = [index for index, one in enumerate(shapes) if one == shape]
            stacks = [
                jnp.concatenate([stack_of(index, kind, arrays[index]) for index in members])
                for (kind, _), arrays in zip(arguments, leaves, strict=True)
            ]
            borders = list(accumulate(self._forms[index].count for index in members))[:-1]
            for number, (kind, stack) in enumerate(zip(results, by_part(function, stacks, shared), strict=True)):
                for index, part in zip(members, jnp.split(stack, borders), strict=True):
                    named = self._forms[index].named(part.mT if turned[index] else part, kind)
                    computed[number][index] = named.rearrange(leaves[0][index].axes) if kind is Kind.MATRIX else named
        return tuple(map(self._tree, computed))

    def _leaves(self, tree: Tree) -> list[NamedArray]:
        return jax.tree.leaves(tree, is_leaf=is_named)

    def _tree(self, leaves: list[Any]) -> Tree:
        return jax.tree.unflatten(self._structure, leaves)


def by_part(function: OfStacks, stacks: Sequence[jax.Array], shared: Sequence[jax.Array] = ()) -> tuple[jax.Array, ...]:
    """``function(*stacks, *shared)``, each device with its part of the stacks. Outside a mesh, one call.

    Args:
        function: Maps stacks [stack, ...] to stacks, each matrix alone.
        stacks: Arrays with equal first dimensions. Zeros fill them up to a multiple of the parts.
        shared: Arrays that every device gets whole.
    """
    sizes = {name: size for name, size in open_axes().items() if size > 1}
    count = len(stacks[0])
    names, parts = _split(count, sizes)
    if not names:
        return function(*stacks, *shared)
    missing = -count % parts
    padded = [jnp.pad(stack, ((0, missing), *(((0, 0),) * (stack.ndim - 1)))) for stack in stacks]
    spec = PartitionSpec(names)
    of_arguments = (*(spec for _ in stacks), *(PartitionSpec() for _ in shared))
    run = jax.shard_map(function, in_specs=of_arguments, out_specs=spec, axis_names=set(sizes), check_vma=False)
    return tuple(stack[:count] for stack in run(*padded, *shared))


def _split(count: int, sizes: dict[str, int]) -> tuple[tuple[str, ...], int]:
    """The mesh axes that split a stack, and the number of parts.

    Those that split parameters come first; none leaves a device idle.
    """
    first = [name for axis in (EMBED, EXPERTS) for name in mesh_axes(axis, PARAMETER_AXES)]
    between = {row.name for row in on("dcn")}
    names: tuple[str, ...] = ()
    parts = 1
    for name in sorted(sizes, key=lambda name: name not in first):
        if name not in between and parts * sizes[name] <= count:
            names, parts = (*names, name), parts * sizes[name]
    return names, parts


def _size(axes: tuple[Axis, ...]) -> int:
    return math.prod(axis.size for axis in axes)
