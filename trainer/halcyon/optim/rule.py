"""The interface of an update rule, and the parts that rules share.

A rule is a function ``NAME(rule, parameters) -> Rule`` in `halcyon.optim.rules`:

- ``rule``: its settings, a class of `halcyon_api.spec.rules`;
- ``parameters``: a `halcyon.models.parameters.Parameter` in the place of each NamedArray of the rule's group, None in
  all other places;

``update(state, given)`` returns the float32 change that is added to each parameter. Trees of a rule have None in the
place of a parameter of another group, so ``jax.tree.map`` sees only the rule's own parameters.

Each array of a state that belongs to a parameter is a NamedArray with the parameter's axes, or with some of them. So
`halcyon.parallel.axes.shardings` divides the state like the parameters, and a checkpoint restores it on another mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import is_named
from halcyon.models.parameters import Parameter, Role

Tree = Any
Scalar = jax.Array | float

DECAYING = frozenset({Role.MATRIX, Role.HEAD, Role.ROUTER, Role.EXPERT, Role.CONVOLUTION, Role.ADAPTER})
"""The roles of linear maps. Weight decay applies only to them."""


class Given(NamedTuple):
    """What a rule knows of a step beside its state."""

    gradients: Tree
    """Float32 gradients, clipped."""
    params: Tree
    """The parameters."""
    learning_rate: Scalar
    """The rate of this step, float32 scalar."""
    weight_decay: Scalar
    """Decoupled decay of those parameters whose roles decay (`decaying`)."""
    peak_rate: float
    """The greatest rate of the schedule."""
    step: jax.Array | int = 0
    """Number of steps done, int32 scalar. Steps with dropped updates count."""
    key: jax.Array | None = None
    """Random key of this step. None: the caller has none, and the rule draws no numbers."""
    momentum: Scalar | None = None
    """The scheduled momentum of this step. None: that of the rule."""
    curvature: Callable[[], Tree] | None = None
    """Estimates the diagonal of the Hessian. None: no rule needs it."""

    def of(self, flags: Tree) -> Self:
        """The same for the parameters whose flag is True; see `select`."""
        gradients, params, estimate = select(self.gradients, flags), select(self.params, flags), self.curvature
        curvature = None if estimate is None else lambda: select(estimate(), flags)
        return self._replace(gradients=gradients, params=params, curvature=curvature)


Update = Callable[[Any, Given], tuple[Tree, Any]]
"""From a state to the changes, or the direction of the step, and the next state."""


class Rule(NamedTuple):
    """An update rule for some parameters."""

    init: Callable[[Tree], Any]
    """Makes the state from the parameters."""
    update: Update
    """The changes to add to the parameters, and the next state, from the state."""


def decaying(parameters: Tree) -> Tree:
    """Which parameters decay, by their roles or by their group: a bool in the place of each `Parameter`."""
    return jax.tree.map(lambda one: one.role in DECAYING if one.decays is None else one.decays, parameters)


def finish(direction: Tree, given: Given, decays: Tree) -> Tree:
    """The change of each parameter: ``-learning_rate * (direction + weight_decay * parameter)``, float32.

    Args:
        direction: Float32 arrays with the structure of the parameters.
        given: The parameters, the learning rate and the decoupled weight decay (Loshchilov and Hutter 2019).
        decays: The result of `decaying`.
    """
    flags = jax.tree.leaves(decays)
    leaves, structure = jax.tree.flatten(direction)
    pairs = zip(flags, leaves, jax.tree.leaves(given.params), strict=True)
    decayed = [leaf + given.weight_decay * wide(weight) if flag else leaf for flag, leaf, weight in pairs]
    return jax.tree.unflatten(structure, [-given.learning_rate * leaf for leaf in decayed])


def mean(old: Tree, new: Tree, decay: Scalar) -> Tree:
    """``decay old + (1 - decay) new``, float32."""
    return jax.tree.map(lambda one, other: decay * one + (1 - decay) * other, old, new)


def mean_of_rest(old: NamedArray, new: NamedArray, decay: Scalar) -> NamedArray:
    """`mean` with fewer axes than the new numbers: of these the mean over the other axes counts."""
    over = tuple(number for number, axis in enumerate(new.axes) if axis.name not in old.axis_names)
    return NamedArray(decay * old.array + (1 - decay) * jnp.mean(new.array, axis=over), old.axes)


def spread(x: NamedArray, over: NamedArray) -> jax.Array:
    """The array of `x` with axes of size 1 where `over` has further axes."""
    return x.array.reshape([axis.size if axis.name in x.axis_names else 1 for axis in over.axes])


def zeros_over(axes: Sequence[Axis]) -> NamedArray:
    """Float32 zeros."""
    return NamedArray(jnp.zeros([axis.size for axis in axes], jnp.float32), tuple(axes))


def wide(leaf: jax.Array) -> jax.Array:
    """An array in float32."""
    return leaf.astype(jnp.float32)


def zeros(params: Tree) -> Tree:
    """Float32 zeros with the shapes and axes of the parameters."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=jnp.float32), params)


def inner_axes(x: NamedArray, parameter: Parameter) -> tuple[int, ...]:
    """The numbers of the axes of `x` that are not stacked: each index of a stacked axis is a parameter of its own."""
    stacked = {axis.name for axis in parameter.stacked}
    return tuple(number for number, axis in enumerate(x.axes) if axis.name not in stacked)


class Inner(NamedTuple):
    """The elements of one parameter in an array, which may stack several."""

    axes: tuple[int, ...]
    """See `inner_axes`."""
    counted: float
    """See `Parameter.counted`."""

    def mean(self, x: jax.Array) -> jax.Array:
        """The mean over the elements that do not pad the vocabulary, where `x` is 0; the axes stay with size 1."""
        return jnp.mean(x, axis=self.axes, keepdims=True) / self.counted

    def root_mean_square(self, x: jax.Array) -> jax.Array:
        """The same of the squares, and its root."""
        return jnp.sqrt(self.mean(x * x))


def each(function: Callable[..., jax.Array], parameters: Tree, *trees: Tree) -> Tree:
    """Apply ``function(inner, *arrays)`` to each parameter; the result has the axes of the first tree's arrays.

    Args:
        function: Takes an `Inner` and one array of each tree.
        parameters: See the module.
        trees: Trees of NamedArrays with the same places.
    """

    def one(parameter: Parameter, *named: NamedArray) -> NamedArray:
        arrays = [x.array for x in named]
        return NamedArray(function(Inner(inner_axes(named[0], parameter), parameter.counted), *arrays), named[0].axes)

    return jax.tree.map(one, parameters, *trees)


def frobenius_norm(axes: tuple[int, ...], x: jax.Array) -> jax.Array:
    """The Frobenius norm over some axes, which stay with size 1."""
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


def without_axes(x: NamedArray, left_out: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes of `x` but some."""
    names = {axis.name for axis in left_out}
    return tuple(axis for axis in x.axes if axis.name not in names)


def descending(init: Callable[[Tree], Any], direct: Update, parameters: Tree) -> Rule:
    """A rule that computes a direction; `finish` applies learning rate and weight decay to it.

    Args:
        init: Makes the state from the parameters.
        direct: Computes the direction that a step goes against: float32 arrays with the structure of the parameters;
            and the next state.
        parameters: See the module.
    """
    decays = decaying(parameters)

    def update(state: Any, given: Given) -> tuple[Tree, Any]:
        direction, state = direct(state, given)
        return finish(direction, given, decays), state

    return Rule(init, update)


def select(tree: Tree, flags: Tree) -> Tree:
    """`tree` with None in the place of each parameter whose flag is False.

    Args:
        tree: The model or a tree with one leaf in the place of each of its NamedArrays. It may have None in places that
            are not selected.
        flags: A bool in the place of each NamedArray.
    """
    wanted, structure = jax.tree.flatten(flags)
    leaves = structure.flatten_up_to(tree)
    return jax.tree.unflatten(structure, [leaf if flag else None for flag, leaf in zip(wanted, leaves, strict=True)])


def merge(trees: list[Tree]) -> Tree:
    """One tree of trees that have different parameters: in each place the entry that is not None, or None if there is
    none.
    """

    def leaf(node: Any) -> bool:
        return node is None or is_named(node)

    flat = [jax.tree.leaves(tree, is_leaf=leaf) for tree in trees]
    structure = jax.tree.structure(trees[0], is_leaf=leaf)
    return jax.tree.unflatten(
        structure, [next((node for node in nodes if node is not None), None) for nodes in zip(*flat, strict=True)]
    )
