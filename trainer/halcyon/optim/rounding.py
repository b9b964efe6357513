"""Adds updates to parameters, and rounds numbers to narrow types: to the nearest number, or stochastically.

An update that is less than half the distance to the next number is lost when the sum is rounded to the nearest.
Stochastic rounding goes to one of the two neighbours, to the nearer one more often, so that the mean of the result is
the sum (Gupta et al. 2015). Many small updates then move a parameter as far as they would in a wide type.

The moments of an update rule may be stored in bfloat16 or in 8 bits. The rule itself computes in float32 and does not
know of it. Before an update the stored moments are widened, and after it they are rounded once.

**bfloat16** is rounded to the nearest number or, with ``momentsRounding: stochastic``, to one of the two neighbours by
chance. A moment that decays slowly changes by less than half the distance to the next number, so to the nearest it
would stop.

**float8** is always rounded stochastically, because its neighbours are far apart. 8 bits are enough for moments if
small numbers keep their relative precision: a linear code loses the small second moments, by which an update is divided
(Dettmers et al. 2022, `arXiv 2110.02861 <https://arxiv.org/abs/2110.02861>`_, section 2). Four decisions:

- Numbers of a row share a scale, a power of 2. A row has all numbers that differ only in the axis ``embed``, or in the
  last axis where there is no such axis. So a token of the vocabulary and an output of a matrix have scales of their
  own. A scale that is a power of 2 rounds nothing, and a moment that does not change keeps its bits. The scale is a
  maximum, which has no rounding either: it is the same on every mesh, also where the mesh splits the row.
- A mean of gradients has 3 bits of exponent and 4 of mantissa: neighbours are a 16th apart, and below a 62nd of the
  greatest number of the row at a constant distance, a 992nd of it.
- A mean of squares is stored as its root, which has half as many orders of magnitude, with 4 bits of exponent and 3 of
  mantissa. It is never rounded to 0. Otherwise an element could be divided by the epsilon of the rule alone.
- Vectors, such as norms and biases, stay float32: they are small. So do the factors and bases of the rules for
  matrices.

The random bits come from the key of the step, so a run that resumes has the same ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.models.axes import EMBED, is_named
from halcyon.models.parameters import STACKED_AXES
from halcyon.optim.rule import Given, Rule, Tree
from halcyon_api.spec.trainer import MomentsType

Key = jax.Array | None
"""A random key. None: there is none."""


def add_updates(parameters: Any, updates: Any, key: Key) -> Any:
    """The sums, in the types of the parameters.

    Args:
        parameters: A tree of arrays.
        updates: Float32 arrays with the structure of `parameters`.
        key: Random key: bfloat16 parameters are rounded stochastically, by the same numbers on every mesh. None: to the
            nearest.
    """
    if key is None:
        return optax.apply_updates(parameters, updates)
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(key, len(leaves))
    sums = [
        stochastically_rounded(leaf.astype(jnp.float32) + update, one)
        if leaf.dtype == jnp.bfloat16
        else (leaf + update).astype(leaf.dtype)
        for leaf, update, one in zip(leaves, jax.tree.leaves(updates), keys, strict=True)
    ]
    return jax.tree.unflatten(structure, sums)


def stochastically_rounded(x: jax.Array, key: jax.Array) -> jax.Array:
    """Float32 numbers in bfloat16: one of the two neighbours, with probabilities whose mean is the number."""
    # A bfloat16 number is the upper half of a float32 number. A carry out of the lower half goes to the neighbour away
    # from zero.
    bits: Any = jax.lax.bitcast_convert_type(x, jnp.uint32)
    carried = (bits + jax.random.bits(key, x.shape, jnp.uint16)) & jnp.uint32(0xFFFF0000)
    kept: Any = jax.lax.bitcast_convert_type(carried, jnp.float32)
    return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)


def float8_stochastically_rounded(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Float32 numbers in a type of 8 bits, like `stochastically_rounded`.

    None may be greater than the greatest number of the type.
    """
    facts = jnp.finfo(dtype)
    magnitude = jnp.abs(x)
    exponent: Any = jax.lax.bitcast_convert_type(magnitude, jnp.int32) >> 23  # of float32, with its bias
    # Neighbours are 2 ** -nmant of their power of 2 apart; below the least power their distance is constant.
    step = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent - 127, facts.minexp) - facts.nmant)
    chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.float32) / 2**16
    return jnp.copysign(jnp.floor(magnitude / step + chance) * step, x).astype(dtype)


MEANS = frozenset({"mu", "trace", "first", "momentum"})
"""Fields of the states of rules that hold means of gradients."""
SQUARES = frozenset({"nu", "second", "squares"})
"""Fields that hold means of squares, which are not negative."""
FACTORS = frozenset({"left", "right", "bases"})
"""Fields that are no moments."""

_OF_MEANS, _OF_SQUARES = jnp.float8_e3m4, jnp.float8_e4m3fn
"""Types of first moments, and of roots of second moments."""
_LARGEST_POWER = 100
"""Largest power of 2 of a scale, so that neither the scale nor its inverse overflows."""
_NUMBER = 0x8B17
"""Number of the key of the rounding among the keys of an update."""


class Scaled(NamedTuple):
    """The state of a rule with moments of 8 bits."""

    values: Any
    """The state of the rule, with float8 arrays in the place of the moments of matrices."""
    scales: Any
    """The scale of each row, float32, in the place of these arrays: their axes without that of a row.

    None in all other places.
    """


def stored_as(rule: Rule, kind: MomentsType, *, stochastic: bool) -> Rule:
    """`rule` with its moments in another type.

    Args:
        rule: A rule with float32 moments.
        kind: The type of the stored moments.
        stochastic: Round bfloat16 stochastically.
    """
    if kind not in ("bfloat16", "float8"):
        return rule
    wide, narrow = (_wide, _narrow) if kind == "float8" else (_wide_bfloat16, _bfloat16)

    def init(params: Tree) -> Any:
        return narrow(rule.init(params), None)

    def update(state: Any, given: Given) -> tuple[Tree, Any]:
        key = None
        if stochastic:
            if given.key is None:
                raise TypeError("moments that are rounded stochastically need the argument key")
            key = jax.random.fold_in(given.key, _NUMBER)
        changes, new = rule.update(wide(state), given)
        return changes, narrow(new, key)

    return Rule(init, update)


def is_stochastic(kind: MomentsType, rounding: str | None) -> bool:
    """Whether moments are rounded stochastically.

    Args:
        kind: ``precision.moments``.
        rounding: ``precision.momentsRounding``.
    """
    return kind == "float8" or (kind == "bfloat16" and rounding == "stochastic")


def _wide_bfloat16(state: Any) -> Any:
    return _mapped(lambda field, x: _as(x, jnp.float32) if field in MEANS | SQUARES else x, state)


def _bfloat16(state: Any, key: Key) -> Any:
    def narrowed(field: str | None, x: Any, own: Key) -> Any:
        if field not in MEANS | SQUARES:
            return x
        return _as(x, jnp.bfloat16) if own is None else NamedArray(stochastically_rounded(x.array, own), x.axis_names)

    return _mapped(narrowed, state, _keys(state, key))


def _wide(state: Scaled) -> Any:
    def widened(field: str | None, x: Any, scale: Any) -> Any:
        if scale is None:
            return x
        found = x.array.astype(jnp.float32) * jnp.expand_dims(scale.array, _row(x))
        return NamedArray(found * found if field in SQUARES else found, x.axis_names)

    scales = jax.tree.structure(state.values, is_leaf=is_named).flatten_up_to(state.scales)
    return _mapped(widened, state.values, scales)


def _narrow(state: Any, key: Key) -> Scaled:
    leaves, structure = jax.tree.flatten(state, is_leaf=is_named)

    def one(field: str | None, x: Any, own: Key) -> tuple[Any, Any]:
        if field not in MEANS | SQUARES or sum(axis.name not in STACKED_AXES for axis in x.axes) < 2:
            return x, None
        return _float8(x, own, squares=field in SQUARES)

    pairs = [one(*each) for each in zip(_fields(state), leaves, _keys(state, key), strict=True)]
    return Scaled(
        structure.unflatten([value for value, _ in pairs]), structure.unflatten([scale for _, scale in pairs])
    )


def _float8(x: NamedArray, key: Key, *, squares: bool) -> tuple[NamedArray, NamedArray]:
    """A float32 moment in 8 bits, and the scales of its rows.

    Without a key: that before the first update, which is 0.
    """
    at, names = _row(x), x.axis_names
    of_row = (*names[:at], *names[at + 1 :])
    if key is None:
        shape = x.array.shape
        zeros = jnp.zeros(shape, _OF_SQUARES if squares else _OF_MEANS)
        return NamedArray(zeros, names), NamedArray(jnp.ones((*shape[:at], *shape[at + 1 :]), jnp.float32), of_row)
    wide, dtype = (jnp.sqrt(x.array), _OF_SQUARES) if squares else (x.array, _OF_MEANS)
    greatest = jnp.max(jnp.abs(wide), at, keepdims=True)
    power = jnp.clip(jnp.frexp(greatest / float(jnp.finfo(dtype).max))[1], -_LARGEST_POWER, _LARGEST_POWER)
    scaled = wide * jnp.ldexp(jnp.float32(1), -power)
    narrow = float8_stochastically_rounded(scaled, dtype, key)
    if squares:
        narrow = jnp.where((scaled > 0) & (narrow == 0), jnp.finfo(dtype).smallest_subnormal, narrow)
    scale = jnp.where(jnp.isfinite(greatest), jnp.ldexp(jnp.float32(1), power), jnp.nan)
    return NamedArray(narrow, names), NamedArray(jnp.squeeze(scale, at), of_row)


def _row(x: NamedArray) -> int:
    """The number of the axis of a row."""
    return x.axis_names.index(EMBED) if EMBED in x.axis_names else len(x.axes) - 1


def _as(x: NamedArray, dtype: Any) -> NamedArray:
    return NamedArray(x.array.astype(dtype), x.axis_names)


def _mapped(function: Any, state: Any, *further: Any) -> Any:
    """``function(field, array, *further)`` of each array, with one of each further list; see `_fields`."""
    leaves, structure = jax.tree.flatten(state, is_leaf=is_named)
    return structure.unflatten([function(*each) for each in zip(_fields(state), leaves, *further, strict=True)])


def _fields(state: Any) -> list[str | None]:
    """The field of a rule's state that each array belongs to; None for arrays without names of axes, such as counts.

    The paths of the parameters follow the names of these fields. So the first known name decides, whatever fields a
    model has.
    """
    known = MEANS | SQUARES | FACTORS

    def field(path: Any, leaf: Any) -> str | None:
        return (
            next((name for entry in path if (name := getattr(entry, "name", None)) in known), None)
            if is_named(leaf)
            else None
        )

    return [field(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_named)]


def _keys(state: Any, key: Key) -> Any:
    """A key for each array; None without a key."""
    count = len(jax.tree.leaves(state, is_leaf=is_named))
    return [None] * count if key is None else jax.random.split(key, count)
