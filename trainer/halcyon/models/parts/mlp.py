"""Feed-forward parts of a block."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.self_attention import InitLinear
from halcyon_api.spec.families.section import Activation


def activate(name: Activation, x: jax.Array) -> jax.Array:
    """The activation function of this name (see `halcyon_api.spec.families.section.Activation`)."""
    match name:
        case "silu":
            return jax.nn.silu(x)
        case "gelu":
            return jax.nn.gelu(x, approximate=False)
        case "gelu_pytorch_tanh" | "gelu_new":
            return jax.nn.gelu(x)
        case "relu":
            return jax.nn.relu(x)
        case "relu2":
            return jnp.square(jax.nn.relu(x))


class GatedMlp(eqx.Module):
    """``down(activation(gate(x)) * up(x))`` (Shazeer 2020): SwiGLU with ``silu``, GeGLU with ``gelu``."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation = eqx.field(static=True, default="silu")

    @staticmethod
    def init(embed: Axis, mlp: Axis, linear: InitLinear, activation: Activation = "silu") -> GatedMlp:
        """Random linear maps from `embed` to `mlp` and back."""
        maps = {"gate": linear((embed,), (mlp,)), "up": linear((embed,), (mlp,)), "down": linear((mlp,), (embed,))}
        return GatedMlp(**maps, activation=activation)

    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., embed) to the same axes."""
        gated = elementwise(recomputed(lambda gate, up: activate(self.activation, gate) * up), self.gate(x), self.up(x))
        return self.down(gated)


def activated(name: Activation, x: NamedArray) -> NamedArray:
    """An activation function applied to every element."""
    return elementwise(recomputed(lambda x: activate(name, x)), x)
