"""Hyena (Poli et al. 2023): a GPT-2 with gated long convolutions in the place of attention, as Levanter defines it.

A projection makes order + 1 features of each channel. Each goes through a short convolution. The last one is multiplied
by one of the others and convolved with a filter as long as the text, until one factor is left. An MLP of sines makes
the filters from the distance, and an exponential decay, with a rate for each channel, damps them.

Two things are those of the paper, because Levanter's code has a slip there: it convolves along the channels, not the
positions, and it adds the learned vector of a filter to its output; here the vector multiplies its input. Distances,
waves and decays are constants here; Levanter trains them. The number of blocks and of heads is 1.

Segments are convolved each alone. A transform cannot do that, so positions are divided in halves again and again: at
each division, the left half of the segment that lies on both sides is convolved into its right half.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.axes import elementwise, expanded, later, recomputed
from halcyon.models.decoder import Decoder
from halcyon.models.design import BlockKind, LayersInit
from halcyon.models.families.family import Family
from halcyon.models.families.gpt2 import learned_positions_design
from halcyon.models.model import Inputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.parts.gated_delta_net import CausalConvolution
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.mlp import activated
from halcyon.models.parts.weight import add_wide, normal
from halcyon_api.spec.families.hyena import FILTER_INPUTS, TAPS, HyenaSpec
from halcyon_api.spec.families.section import Activation

FAST, SLOW, TARGET = 0.3, 1.5, 1e-2
"""The filter of the first channel falls to the target at the slow share of the longest text, that of the last one at
the fast share."""
WAVE = 1e-4
"""The frequency of the wave, in turns of the longest text."""
NEAR = 16
"""Positions of the blocks in which distances are added up one by one; a power of two."""


class LongFilter(eqx.Module):
    """The filters of a layer: functions of the distance.

    Attributes:
        maps: From the distance and its wave through two hidden layers to all channels.
        positions: The longest text.
        sine_factor: Factor of the arguments of the sines; the hidden layers share it.
    """

    maps: tuple[Linear, ...]
    positions: int = eqx.field(static=True)
    sine_factor: NamedArray = parameter(Role.BIAS)

    def __call__(self, length: int) -> NamedArray:
        """The filters at the first distances: float32 (convolutions, mlp, key_position)."""
        steps = jnp.arange(length, dtype=jnp.float32)
        time, turns = steps / max(1, self.positions - 1), 2 * math.pi * steps / self.positions
        given = jnp.stack((time, jnp.cos(WAVE * turns), -jnp.sin(WAVE * turns)), 1)
        x = hax.named(given, (axes.KEY_POSITION, axes.FILTER_INPUT))
        *hidden, last = self.maps
        for linear in hidden:
            x = elementwise(
                lambda x, factor: jnp.sin(factor * x),
                linear(x).rename({axes.FILTER_OUTPUT: axes.FILTER}),
                self.sine_factor,
            )
        x = last(x).rearrange((axes.CONVOLUTIONS, axes.MLP, axes.KEY_POSITION))
        shape = x.array.shape[:2]
        rates = jnp.linspace(math.log(TARGET) / SLOW, math.log(TARGET) / FAST, math.prod(shape)).reshape(*shape, 1)
        return hax.named(x.array * jnp.exp(time * rates), x.axes)


class Hyena(eqx.Module):
    """The mixer of a block.

    Attributes:
        inner: From the residual stream to the factors: (embed) to (convolutions, mlp).
        short_convolution: Of each of their features.
        long_convolution: Makes the filters.
        output: Into the residual stream.
        activation: Of the last product.
        short_bias: Added to the short convolution.
        long_factor: What each filter adds at distance 0.
    """

    inner: Linear
    short_convolution: CausalConvolution
    long_convolution: LongFilter
    output: Linear
    activation: Activation = eqx.field(static=True)
    short_bias: NamedArray = parameter(Role.BIAS)
    long_factor: NamedArray = parameter(Role.BIAS)

    def __call__(
        self, x: NamedArray, segments: NamedArray | None, rotary: None = None, *, memory: None = None
    ) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            segments: (..., position) integers. None: one segment.
            rotary: Not used: there are no scores.
            memory: Not used: there is no cache.
        """
        del rotary, memory
        outer = tuple(name for name in x.axis_names if name not in (axes.POSITION, self.inner.inputs[0].name))
        parts = add_wide(self.short_convolution(self.inner(x), segments), self.short_bias).astype(jnp.float32)
        *others, value = (part.rearrange((*outer, axes.MLP, axes.POSITION)) for part in parts.unbind(axes.CONVOLUTIONS))
        first, *further = others
        filters = self.long_convolution(x.resolve_axis(axes.POSITION).size).unbind(axes.CONVOLUTIONS)
        for other, kernel in zip(reversed(further), filters, strict=True):
            value = value * other
            value = long_convolution(value, kernel, segments) + value * self.long_factor.astype(jnp.float32)
        return self.output(activated(self.activation, (value * first).astype(x.dtype)))


def long_convolution(x: NamedArray, kernel: NamedArray, segments: NamedArray | None) -> NamedArray:
    """``y[t] = sum over s of kernel[t - s] x[s]``, over the positions s of the segment of t up to it.

    Args:
        x: float32 (..., mlp, position).
        kernel: float32 (mlp, key_position).
        segments: (..., position) integers. None: one segment.
    """
    names = x.axis_names

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> NamedArray:
        del shard, parameters
        x, kernel, segments = given
        ids = None if segments is None else expanded(segments, names)
        return NamedArray(recomputed(_convolved)(x.array, kernel.array, ids), names)

    return by_device(of_device, (x, kernel, segments), (), Result(names))


def _convolved(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    length = x.shape[-1]
    if segments is None:
        return _product(x, kernel, 2 * length)[..., :length]
    size = max(NEAR, 1 << (length - 1).bit_length())
    x, segments = (_padded(each, size) for each in (x, segments))
    kernel = _padded(kernel, size)[..., None, :]
    near, ids = _cut(x, NEAR), _cut(segments, NEAR)
    total = kernel[..., :1] * near
    for distance in range(1, NEAR):
        same = ids == later(ids, distance, ids.ndim - 1, -1)
        total += jnp.where(same, kernel[..., distance, None] * later(near, distance, near.ndim - 1), 0.0)
    total, half = total.reshape(x.shape), NEAR
    while half < size:
        (left, _), (mine, others) = (jnp.split(_cut(each, 2 * half), 2, -1) for each in (x, segments))
        both = others[..., :1]
        reached = _product(jnp.where(mine == both, left, 0.0), kernel, 2 * half)[..., half:]
        reached = jnp.where(others == both, reached, 0.0)
        total += jnp.concatenate((jnp.zeros_like(reached), reached), -1).reshape(x.shape)
        half *= 2
    return total[..., :length]


def _product(x: jax.Array, kernel: jax.Array, size: int) -> jax.Array:
    """The convolution by a transform of this size."""
    return jnp.fft.irfft(jnp.fft.rfft(x, size) * jnp.fft.rfft(kernel[..., :size], size), size)


def _padded(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def _cut(x: jax.Array, size: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], -1, size)


def _mixer(spec: HyenaSpec, positions: int, init: LayersInit) -> Hyena:
    linear = functools.partial(init.linear, bias=True)
    embed, layers, dtype = init.design.axes.embed, init.layers, init.dtype
    parts, channels = Axis(axes.CONVOLUTIONS, spec.hyena_order + 1), Axis(axes.MLP, spec.hidden_size)
    taps, inputs = Axis(axes.TAPS, TAPS), Axis(axes.FILTER_INPUT, FILTER_INPUTS)
    width, hidden = Axis(axes.FILTER, spec.filter_order), Axis(axes.FILTER_OUTPUT, spec.filter_order)
    own = iter(jax.random.split(next(init.keys), 5))

    def of_filter(inputs: Axis, *outputs: Axis) -> Linear:
        # By the width: a filter of small weights would be 0.
        std = inputs.size**-0.5
        return Linear.init(
            (inputs,), outputs, stacked=(layers,), std=std, dtype=dtype, bias=True, role=Role.CONVOLUTION, key=next(own)
        )

    short = normal(next(own), (layers,), (parts, channels), (taps,), std=taps.size**-0.5, dtype=dtype)
    return Hyena(
        inner=linear((embed,), (parts, channels)),
        short_convolution=CausalConvolution(taps, None, short),
        short_bias=hax.zeros((layers, parts, channels), dtype=dtype),
        long_convolution=LongFilter(
            (
                of_filter(inputs, hidden),
                of_filter(width, hidden),
                of_filter(width, parts.resize(spec.hyena_order - 1), channels),
            ),
            positions,
            hax.ones((layers, width), dtype=dtype),
        ),
        long_factor=normal(next(own), (layers,), (channels,), std=1.0, dtype=dtype),
        output=linear((channels,), (embed,)),
        activation=spec.hidden_act,
    )


class HyenaDecoder(Decoder):
    """A Hyena. It keeps no cache: the next token needs the convolution of the whole text."""

    new_cache = None  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    @staticmethod
    def init(spec: HyenaSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> HyenaDecoder:
        """Random parameters: see `Decoder.of`; maps of filters by their width, factors at distance 0 normal."""
        design = learned_positions_design(spec, attention=functools.partial(_mixer, spec, max_position.size))
        return HyenaDecoder.of(design, vocab, max_position, dtype, key=key)

    def _attended(self, kinds: Sequence[BlockKind], inputs: Inputs) -> dict[BlockKind, tuple[Any, Any]]:
        return dict.fromkeys(kinds, (inputs.segments, None))


HYENA = Family(HyenaSpec, HyenaDecoder.init)
"""It has no form of Hugging Face."""
