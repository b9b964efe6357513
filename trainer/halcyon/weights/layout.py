"""Where each parameter lies in the tensors of a file, computed from the declaration of a family and the shapes of a
model.

A model may have more rows than the file: its vocabulary is padded. `sizes` has the file's size of such an axis. The
rows beyond it are zero after reading, and are not written.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.models.axes import is_named
from halcyon.models.parameters import dotted
from halcyon.models.published.tensors import Join, Piece, Tensor, Tensors

Region = tuple[slice, ...]
"""A part of an array: one slice with start and stop for each dimension."""

ReadRows = Callable[[str, int, int], np.ndarray]
"""Reads the rows [start, stop) of a tensor's first dimension, by the tensor's name in `WeightLayout`."""
ReadRegion = Callable[[str, Region], np.ndarray]
"""Reads a region of a parameter, by its path."""

_ROUNDED = 0.02
"""How far the constant of a file may lie from the declared one, as a part of it: narrow types round it."""

_NUMBER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class LeafShape:
    """A parameter of a model: its path in the tree, and its axes with their sizes, in order."""

    path: str
    axes: Mapping[str, int]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.axes.values())


def leaf_shapes(model: Any) -> tuple[LeafShape, ...]:
    """The parameters of a model or of its shapes, in the order of the tree."""
    return tuple(
        LeafShape(dotted(path), {axis.name: axis.size for axis in leaf.axes}, np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_named)[0]
    )


@dataclass(frozen=True)
class View:
    """A piece of one tensor.

    Attributes:
        leaf: The parameter.
        piece: Its declaration.
        sizes: Size of each of the piece's axes in the file, in the order of the leaf.
        fixed: The index of each stacked axis that the tensor's name has.
        join: How the pieces are joined.
        offset: Where the piece begins, in the part of the joined dimension that lies within the shared axes.
        joined: Size of that part, of all pieces together.
    """

    leaf: LeafShape
    piece: Piece
    sizes: Mapping[str, int]
    fixed: Mapping[str, int]
    join: Join
    offset: int
    joined: int

    def axes(self) -> tuple[str, ...]:
        """The axes in the order of the file."""
        return tuple(itertools.chain.from_iterable(self.piece.dimensions))

    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        sizes, at = [self._product(names) for names in self.piece.dimensions], self.join.dimension
        sizes[at] = self._product(self.piece.dimensions[at][: self.join.within]) * self.joined
        return tuple(sizes)

    def _product(self, names: Sequence[str]) -> int:
        return math.prod(self.sizes[name] for name in names)

    def read(self, parts: Mapping[str, slice], rows: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """A region of the parameter in the file, with the axes in the order of the leaf. Reads only the rows that cover
        it.

        Args:
            parts: The region, as a slice for each axis of the piece.
            rows: Reads the rows [start, stop) of the tensor's first dimension.
        """
        names = self.piece.dimensions[0]
        alone = self.join == Join()  # its rows hold no other piece
        first, total = (self.offset, self._product(names)) if alone else (0, self.shape()[0])
        end, sizes, region = first + total, dict(self.sizes), dict(parts)
        if names and names[0] not in self.piece.orders:
            outer, each = parts[names[0]], total // self.sizes[names[0]]
            first, end = first + outer.start * each, first + outer.stop * each
            sizes[names[0]], region[names[0]] = outer.stop - outer.start, slice(0, outer.stop - outer.start)
        array, order = rows(first, end), self.axes()
        if not alone:
            array = self.cut(array, self.join.dimension)
        array = array.reshape([sizes[name] for name in order])
        for axis, name in enumerate(order):
            index: Any = region[name]
            if name in self.piece.orders:
                index = self.piece.orders[name](self.sizes[name])[index]
            array = array[(slice(None),) * axis + (index,)]
        return array.transpose([order.index(name) for name in self.sizes])

    def cut(self, array: np.ndarray, dimension: int) -> np.ndarray:
        """The part of an array that belongs to the piece, with the joined dimension as [shared axes, own axes].

        Args:
            array: An array with the joined dimension of the tensor.
            dimension: The number of that dimension in `array`.
        """
        length = self._product(self.piece.dimensions[self.join.dimension][self.join.within :])
        whole = array.reshape(*array.shape[:dimension], -1, self.joined, *array.shape[dimension + 1 :])
        return whole[(slice(None),) * (dimension + 1) + (slice(self.offset, self.offset + length),)]

    def in_order_of_file(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """An array with the axes `names`, with the elements of each axis in the order of the file."""
        for axis, name in enumerate(names):
            if name in self.piece.orders:
                values = values.take(np.argsort(self.piece.orders[name](self.sizes[name])), axis)
        return values

    def paste(self, tensor: np.ndarray, values: np.ndarray) -> None:
        """Write the parameter's values, with the axes in the order of the leaf, into their place in the tensor."""
        free, order = [*self.sizes], self.axes()
        values = self.in_order_of_file(values.transpose([free.index(name) for name in order]), order)
        part = self.cut(tensor, self.join.dimension)
        part[...] = values.reshape(part.shape)


@dataclass(frozen=True)
class FileTensor:
    """A tensor of the file.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: The type of its elements.
        views: The parameters that it holds.
        constant: Its number if it holds no parameter.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    views: tuple[View, ...] = field(repr=False)
    constant: float | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def values(self, read: ReadRegion) -> np.ndarray:
        """The tensor, from regions of the parameters that it holds."""
        if self.constant is not None:
            return np.full(self.shape, self.constant, self.dtype)
        tensor = np.empty(self.shape, self.dtype)
        for view in self.views:
            parts = {name: slice(0, size) for name, size in view.sizes.items()}
            parts |= {name: slice(index, index + 1) for name, index in view.fixed.items()}
            values = read(view.leaf.path, tuple(parts[name] for name in view.leaf.axes))
            view.paste(tensor, values.reshape([*view.sizes.values()]))
        return tensor


class WeightLayout:
    """Where the parameters of a model lie in its files.

    Args:
        declared: The tensors of the family.
        leaves: The parameters of the model.
        sizes: The file's size of axes that differ from the model's, by name.

    Raises:
        TypeError: The declaration does not cover the model: a mistake in the family's file.
    """

    def __init__(self, declared: Tensors, leaves: Sequence[LeafShape], sizes: Mapping[str, int] | None = None) -> None:
        self._declared = declared
        self.leaves = {leaf.path: leaf for leaf in leaves}
        self._sizes = sizes or {}
        self.tensors: dict[str, FileTensor] = {}
        """The tensors by name, in the order of layers."""
        self._sources: dict[str, dict[tuple[int, ...], tuple[FileTensor, View]]] = {path: {} for path in self.leaves}
        self._stacked: dict[str, tuple[str, ...]] = {}
        found = [one for tensor in declared.tensors for one in self._instances(tensor)]
        found += [
            FileTensor(constant.name.format(layers=layer), (), leaves[0].dtype, (), constant.value)
            for constant in declared.constants
            for layer in constant.layers
        ]
        for one in sorted(found, key=lambda one: _natural(one.name)):
            if one.name in self.tensors:
                raise TypeError(f"the tensor {one.name} is declared twice")
            self.tensors[one.name] = one
        if missing := [path for path in self.leaves if path not in self._stacked]:
            raise TypeError(f"no tensor holds the parameter {missing[0]}")

    def canonical(self, name: str, names: Container[str] = ()) -> str | None:
        """The name in `tensors` of a tensor of a file; None: it is ignored, or of a part that is not trained
        (`Tensors.part`).

        Args:
            name: The name in the file.
            names: The names of all tensors of the files.

        Raises:
            BadConfiguration: The model has no such tensor.
        """
        if name in self.tensors:
            return name
        renamed = name
        for pattern, replacement in self._declared.other_names:
            renamed, count = re.subn(rf"^(?:{pattern})", replacement, name, count=1)
            if count:
                break
        if renamed in self.tensors:
            return renamed
        ignored = any(re.fullmatch(pattern, one) for pattern in self._declared.ignored for one in (name, renamed))
        if ignored or self._declared.part(name, names) is not None:
            return None
        raise BadConfiguration(
            f"the tensor {name} is no part of this model; config.json and the files are of different models"
        )

    def tensors_of(self, path: str) -> tuple[str, ...]:
        """Names of the tensors that hold a parameter, or a part of it."""
        return tuple(one.name for one, _ in self._sources[path].values())

    def cheap_cuts(self, path: str) -> tuple[tuple[str, ...], ...]:
        """The axes of a parameter in groups, the first group first: a region that is cut along these axes is read
        without other bytes.

        Stacked axes come first, each index has a tensor of its own; then the outermost axis of the tensors' rows. Other
        axes cut rows.
        """
        _, view = next(iter(self._sources[path].values()))
        rows = view.piece.dimensions[0][:1]
        return self._stacked[path], tuple(name for name in rows if name not in view.piece.orders)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the names and shapes in the files with those of the model.

        Args:
            shapes: Shapes by the names in `tensors`. The first dimension of a table of positions may be longer than the
                model's.

        Raises:
            BadConfiguration: A tensor is missing, or has another shape.
        """
        for name, tensor in self.tensors.items():
            if name not in shapes and tensor.constant is None:
                raise BadConfiguration(f"the files have no tensor {name}; copy all files of the model")
            if shapes.get(name, tensor.shape) != tensor.shape:
                raise BadConfiguration(
                    f"the tensor {name} has the shape {list(shapes[name])} in the files, and {list(tensor.shape)} by "
                    "the configuration; give the configuration of this model"
                )

    def check_constants(self, names: Iterable[str], rows: ReadRows) -> None:
        """Compare the constants in the files with those that the model is computed with.

        Args:
            names: Names in `tensors` of the tensors in the files.
            rows: Reads them.

        Raises:
            BadConfiguration: One has another value.
        """
        for name in names:
            expected = self.tensors[name].constant
            if expected is None:
                continue
            found = float(rows(name, 0, 1).reshape(()))
            if not math.isclose(found, expected, rel_tol=_ROUNDED):
                raise BadConfiguration(
                    f"the tensor {name} is {found:g} in the files, but Halcyon computes this model only with "
                    f"{expected:g}; take another model"
                )

    def read(self, path: str, region: Region, rows: ReadRows) -> np.ndarray:
        """A region of a parameter, in the type of the model; other floating-point types are rounded."""
        leaf = self.leaves[path]
        result = np.zeros([part.stop - part.start for part in region], leaf.dtype)
        asked = dict(zip(leaf.axes, region, strict=True))
        stacked = self._stacked[path]
        for index in itertools.product(*(range(asked[name].start, asked[name].stop) for name in stacked)):
            tensor, view = self._sources[path][index]
            parts = {name: slice(asked[name].start, min(asked[name].stop, size)) for name, size in view.sizes.items()}
            if any(part.stop <= part.start for part in parts.values()):
                continue
            values = view.read(parts, functools.partial(rows, tensor.name))
            at = {name: slice(0, part.stop - part.start) for name, part in parts.items()}
            at |= {name: number - asked[name].start for name, number in zip(stacked, index, strict=True)}
            result[tuple(at[name] for name in leaf.axes)] = values
        return result

    def _instances(self, tensor: Tensor) -> Iterator[FileTensor]:
        stacked = tuple(_NUMBER.findall(tensor.name))
        if unknown := [piece.path for piece in tensor.pieces if piece.path not in self.leaves]:
            raise TypeError(f"a tensor holds the parameter {unknown[0]}, which the model does not have")
        leaves = [self.leaves[piece.path] for piece in tensor.pieces]
        for leaf, piece in zip(leaves, tensor.pieces, strict=True):
            named = [*stacked, *itertools.chain.from_iterable(piece.dimensions)]
            if sorted(named) != sorted(leaf.axes):
                raise TypeError(
                    f"the tensor {tensor.name} has the axes {named}, the parameter {leaf.path} has {list(leaf.axes)}"
                )
            if piece.path in self._stacked:
                raise TypeError(f"the parameter {piece.path} is declared twice")
            self._stacked[piece.path] = stacked
        numbers = {name: tensor.numbers.get(name, range(leaves[0].axes[name])) for name in stacked}
        for name in stacked:
            if any(leaf.axes[name] != len(numbers[name]) for leaf in leaves):
                raise TypeError(
                    f"the tensor {tensor.name} has {len(numbers[name])} numbers of the axis {name}, the model has "
                    "other sizes"
                )
        sizes = [
            {name: self._sizes.get(name, size) for name, size in leaf.axes.items() if name not in stacked}
            for leaf in leaves
        ]
        lengths = [
            math.prod(own[name] for name in piece.dimensions[tensor.join.dimension][tensor.join.within :])
            for piece, own in zip(tensor.pieces, sizes, strict=True)
        ]
        for index in itertools.product(*(range(len(numbers[name])) for name in stacked)):
            fixed = dict(zip(stacked, index, strict=True))
            views = tuple(
                View(leaf, piece, own, fixed, tensor.join, sum(lengths[:number]), sum(lengths))
                for number, (leaf, piece, own) in enumerate(zip(leaves, tensor.pieces, sizes, strict=True))
            )
            name = tensor.name.format(**{axis: numbers[axis][at] for axis, at in fixed.items()})
            one = FileTensor(name, views[0].shape(), leaves[0].dtype, views)
            for view in views:
                self._sources[view.leaf.path][index] = (one, view)
            yield one


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in name.split(".")]
