"""Feed-forward parts of a block."""

from __future__ import annotations

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.self_attention import InitLinear


class SwiGlu(eqx.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer 2020)."""

    gate: Linear
    up: Linear
    down: Linear

    @staticmethod
    def init(embed: Axis, mlp: Axis, linear: InitLinear) -> SwiGlu:
        """Random linear maps from `embed` to `mlp` and back."""
        return SwiGlu(gate=linear((embed,), (mlp,)), up=linear((embed,), (mlp,)), down=linear((mlp,), (embed,)))

    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., embed) to the same axes."""
        return self.down(elementwise(recomputed(lambda gate, up: jax.nn.silu(gate) * up), self.gate(x), self.up(x)))


def gelu(x: NamedArray) -> NamedArray:
    """The Gaussian error linear unit in its tanh form, as in the published GPT-2."""
    return elementwise(recomputed(jax.nn.gelu), x)
