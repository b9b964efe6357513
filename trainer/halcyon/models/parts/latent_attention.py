"""Latent attention (DeepSeek-AI 2024, section 2.1.1): keys and values are projected from a vector of few features, which a cache can keep.

A head has plain features, from that vector, and rotated features. The rotated features of keys are one head that all heads share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haliax as hax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import HEAD_SIZE, KEY_POSITION, POSITION
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotate
from halcyon.models.parts.self_attention import InitLinear


class LatentAttention(eqx.Module):
    """Multi-head latent attention.

    Attributes:
        query_down: From the residual stream to the latent vector of queries. None: queries come from the residual stream.
        query_latent_norm: Norm of that vector.
        query_plain: To the plain features of queries.
        query_rotary: To the rotated features of queries.
        latent: From the residual stream to the latent vector of keys and values.
        latent_norm: Norm of that vector.
        key_rotary: From the residual stream to the rotated features of keys, for all heads together.
        key_plain: From the latent vector to the plain features of keys.
        value: From the latent vector to values.
        output: From the heads' values to the residual stream.
        plain: Plain features of a head.
        rotary: Rotated features of a head.
        value_size: Features of a value.
        scale: Factor of the scores. None: 1 / sqrt(features of a head).
    """

    query_down: Linear | None
    query_latent_norm: RmsNorm | None
    query_plain: Linear
    query_rotary: Linear
    latent: Linear
    latent_norm: RmsNorm
    key_rotary: Linear
    key_plain: Linear
    value: Linear
    output: Linear
    plain: Axis = eqx.field(static=True)
    rotary: Axis = eqx.field(static=True)
    value_size: Axis = eqx.field(static=True)
    scale: float | None = eqx.field(static=True)

    @staticmethod
    def init(
        embed: Axis,
        heads: Axis,
        *,
        query_rank: Axis | None,
        kv_rank: Axis,
        plain: Axis,
        rotary: Axis,
        value_size: Axis,
        linear: InitLinear,
        biased: InitLinear,
        norm: Callable[[Axis], RmsNorm],
        scale: float | None = None,
    ) -> LatentAttention:
        """Random projections; see the class.

        Args:
            embed: Features of the residual stream.
            heads: Heads.
            query_rank: Features of the latent vector of queries. None: no such vector.
            kv_rank: Features of the latent vector of keys and values.
            plain: See the class.
            rotary: See the class.
            value_size: See the class.
            linear: Makes a projection from a latent vector, or of queries without one.
            biased: Makes a projection to a latent vector or into the residual stream; these may have biases.
            norm: Makes the norm of a latent vector.
            scale: See the class.
        """
        source = query_rank or embed
        return LatentAttention(
            query_down=None if query_rank is None else biased((embed,), (query_rank,)),
            query_latent_norm=None if query_rank is None else norm(query_rank),
            query_plain=linear((source,), (heads, plain)),
            query_rotary=linear((source,), (heads, rotary)),
            latent=biased((embed,), (kv_rank,)),
            latent_norm=norm(kv_rank),
            key_rotary=biased((embed,), (rotary,)),
            key_plain=linear((kv_rank,), (heads, plain)),
            value=linear((kv_rank,), (heads, value_size)),
            output=biased((heads, value_size), (embed,)),
            plain=plain,
            rotary=rotary,
            value_size=value_size,
            scale=scale,
        )

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            mask: The keys that a query sees.
            rotary: The rotation, with the axis `rotary`.
        """
        position = x.resolve_axis(POSITION)
        key_position = position.alias(KEY_POSITION)
        source = x
        if self.query_down is not None and self.query_latent_norm is not None:
            source = self.query_latent_norm(self.query_down(x))
        latent = self.latent_norm(self.latent(x))
        query = self._joined(self.query_plain(source), rotate(self.query_rotary(source), rotary, self.rotary))
        key = self._joined(self.key_plain(latent), rotate(self.key_rotary(x), rotary, self.rotary))
        attended = attention(
            query,
            key.rename({position: key_position}),
            self.value(latent).rename({position: key_position}),
            mask,
            position=position,
            key_position=key_position,
            head_size=query.resolve_axis(HEAD_SIZE),
            value_size=self.value_size,
            scale=self.scale,
        )
        return self.output(attended)

    def _joined(self, plain: NamedArray, rotated: NamedArray) -> NamedArray:
        """Plain and rotated features as one axis, the last; rotated features that all heads share are copied to each."""
        outer = tuple(axis for axis in plain.axes if axis != self.plain)
        left = plain.rearrange((*outer, self.plain)).array
        right: Any = rotated.broadcast_to((*outer, self.rotary)).rearrange((*outer, self.rotary)).array
        return hax.named(jnp.concatenate((left, right), -1), (*outer, Axis(HEAD_SIZE, self.plain.size + self.rotary.size)))
