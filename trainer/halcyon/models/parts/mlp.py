"""Feed-forward parts of a block, with and without a gate, and their activation functions."""

from __future__ import annotations

import math

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import elementwise, recomputed
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.linear import Linear
from halcyon_api.spec.families.section import Activation

BETA, EPSILON = 0.5, -1e-6
"""The slope at 0, and the greatest number that the exponential function gets.

They are constants of the published models.
"""
_FIRST_ALPHA = 0.8


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


def activated(name: Activation, x: NamedArray) -> NamedArray:
    """An activation function applied to every element."""
    return elementwise(recomputed(lambda x: activate(name, x)), x)


class Xielu(eqx.Module):
    """xIELU (Huang and Schlag 2024, section 3): quadratic above 0, and below it an integrated exponential function.

    ``alpha_p x^2 + beta x`` above 0, and ``alpha_n (exp(x) - 1 - x) + beta x`` below, with ``alpha_p =
    softplus(positive)`` and ``alpha_n = beta + softplus(negative)``.
    """

    positive: NamedArray = parameter(Role.BIAS)
    negative: NamedArray = parameter(Role.BIAS)

    @staticmethod
    def init(stacked: tuple[Axis, ...], dtype: jnp.dtype) -> Xielu:
        """Both factors start at 0.8: shape (*stacked,)."""

        def start(alpha: float) -> NamedArray:
            return hax.full(stacked, math.log(math.expm1(alpha)), dtype=dtype)

        return Xielu(start(_FIRST_ALPHA), start(_FIRST_ALPHA - BETA))

    def __call__(self, x: NamedArray) -> NamedArray:
        """The axes and the type of `x`; the arithmetic is float32."""

        def activate(x: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
            wide = x.astype(jnp.float32)
            above, below = (jax.nn.softplus(each.astype(jnp.float32)) for each in (positive, negative))
            bent = jnp.where(
                wide > 0, above * wide * wide, (jnp.expm1(jnp.minimum(wide, EPSILON)) - wide) * (BETA + below)
            )
            return (bent + BETA * wide).astype(x.dtype)

        return elementwise(recomputed(activate), x, self.positive, self.negative)


class Mlp(eqx.Module):
    """``down(activation(gate(x)) * up(x))`` (Shazeer 2020): SwiGLU with ``silu``, GeGLU with ``gelu``. Without a gate,
    ``down(activation(up(x)))``."""

    gate: Linear | None
    up: Linear
    down: Linear
    learned: Xielu | None
    """The activation function, if it has parameters; then there is no gate."""
    activation: Activation = eqx.field(static=True)

    @jax.named_scope("mlp")
    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., embed) to the same axes."""
        if self.gate is not None:
            gated = recomputed(lambda gate, up: activate(self.activation, gate) * up)
            return self.down(elementwise(gated, self.gate(x), self.up(x)))
        inner = self.up(x)
        return self.down(activated(self.activation, inner) if self.learned is None else self.learned(inner))
