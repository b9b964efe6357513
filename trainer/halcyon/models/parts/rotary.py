"""Rotary position embedding (Su et al. 2021): queries and keys are rotated by an angle proportional to their position.

Feature ``i`` of the first half of the rotated features is paired with feature ``i`` of the second half, as in the
published weights of Hugging Face. Pair ``i`` of ``n`` rotates by ``theta ** (-i / n)`` per position, unless a scaling
for longer texts changes these frequencies. The angles are float32 whatever the compute type.
"""

import dataclasses
import math
from dataclasses import dataclass

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import PAIR, elementwise
from halcyon_api.spec.families.rope import RopeScaling


@dataclass(frozen=True)
class Rope:
    """The rotation of one kind of layers.

    Attributes:
        theta: Base of the frequencies.
        scaling: Change of the frequencies for longer texts. None: no change.
        fraction: The part of a head's features that is rotated; they come first.
        numbers: Numbers of a position, each of which rotates an equal part of the pairs.
    """

    theta: float
    scaling: RopeScaling | None = None
    fraction: float = 1.0
    numbers: int = 1

    def rotated(self, head_size: Axis) -> int:
        """The number of rotated features of a head; even."""
        return 2 * (int(head_size.size * self.fraction) // 2)


class RotaryTable(eqx.Module):
    """Cosines and sines by position, each of shape (..., position, head_size), float32.

    Attributes:
        cosine: 1 for features that are not rotated.
        sine: With the sign of the rotation: negative for the first half of the rotated features.
        rotated: Number of rotated features.
    """

    cosine: NamedArray
    sine: NamedArray
    rotated: int = eqx.field(static=True)


def frequencies(rope: Rope, pairs: int) -> jax.Array:
    """Radians per position of each pair of features: float32 [pairs].

    The formulas are those of ``modeling_rope_utils`` of Hugging Face: ``linear`` is Chen et al. 2023, ``yarn`` is Peng
    et al. 2023, and ``llama3`` is the scaling of the published Llama 3.1.
    """
    if rope.numbers > 1:
        return jnp.tile(frequencies(dataclasses.replace(rope, numbers=1), pairs // rope.numbers), rope.numbers)
    plain = rope.theta ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    scaling = rope.scaling
    if scaling is None or scaling.rope_type == "default":
        return plain
    slow = plain / (scaling.factor or 1.0)
    if scaling.rope_type == "linear":
        return slow
    original = scaling.original_max_position_embeddings or 1
    if scaling.rope_type == "llama3":
        low, high = scaling.low_freq_factor or 1.0, scaling.high_freq_factor or 4.0
        turns = original * plain / (2 * math.pi)  # in the original length
        part = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        return (1 - part) * slow + part * plain
    first, last = _yarn_ramp(scaling, rope.theta, 2 * pairs, original)
    part = jnp.clip((jnp.arange(pairs, dtype=jnp.float32) - first) / (last - first), 0.0, 1.0)
    return slow * part + plain * (1 - part)


def _yarn_ramp(scaling: RopeScaling, theta: float, features: int, original: int) -> tuple[float, float]:
    """The pairs between which the frequencies change from the plain to the divided ones."""

    def pair_with(turns: float) -> float:
        return features * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_with(scaling.beta_fast or 32.0), pair_with(scaling.beta_slow or 1.0)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, features - 1)
    return first, last + 0.001 if first == last else last


def magnitude(rope: Rope) -> float:
    """The factor of rotated queries and keys: 1, except for ``yarn``."""
    scaling = rope.scaling
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling, scaling.mscale) / grown(scaling, scaling.mscale_all_dim)
    return grown(scaling, 1.0)


def grown(scaling: RopeScaling, mscale: float) -> float:
    """``0.1 mscale ln(factor) + 1``, or 1 if positions are not scaled."""
    factor = scaling.factor or 1.0
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rotary_table(position: Axis, head_size: Axis, rope: Rope, positions: NamedArray | None) -> RotaryTable:
    """The angles of positions.

    Args:
        position: The axis of positions.
        head_size: Features of a head.
        rope: The rotation.
        positions: (..., position) integers, or one for each pair of features: (..., position, pair). None: counted from
            0.
    """
    rotated, factor = rope.rotated(head_size), magnitude(rope)
    turns = frequencies(rope, rotated // 2)
    numbers = jnp.arange(position.size, dtype=jnp.float32) if positions is None else positions.array.astype(jnp.float32)
    axes: tuple[Axis, ...] = (position,) if positions is None else positions.axes
    if axes[-1].name == PAIR:
        angles, axes = numbers * turns, axes[:-1]
    else:
        angles = numbers[..., None] * turns
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    if factor != 1.0:
        cosine, sine = cosine * factor, sine * factor
    rest = (*cosine.shape[:-1], head_size.size - rotated)

    def named(first: jax.Array, second: jax.Array, beyond: float) -> NamedArray:
        parts = (first, second, jnp.full(rest, beyond)) if rest[-1] else (first, second)
        return hax.named(jnp.concatenate(parts, axis=-1), (*axes, head_size))

    return RotaryTable(named(cosine, cosine, 1.0), named(-sine, sine, 0.0), rotated)


def rotate(x: NamedArray, table: RotaryTable, head_size: Axis) -> NamedArray:
    """`x` rotated by the angles of its positions, in the type of `x`; the arithmetic is float32."""
    feature = x.axis_names.index(head_size.name)

    def turn(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return (wide * cosine + _paired(wide, table.rotated, feature) * sine).astype(x.dtype)

    return elementwise(turn, x, table.cosine, table.sine)


def _paired(x: jax.Array, rotated: int, feature: int) -> jax.Array:
    """Each rotated feature replaced by the other one of its pair."""
    if rotated == x.shape[feature]:
        return jnp.roll(x, rotated // 2, feature)
    turned, rest = jnp.split(x, [rotated], axis=feature)
    return jnp.concatenate((jnp.roll(turned, rotated // 2, feature), rest), axis=feature)
