"""A low-rank adapter of a linear map (LoRA, Hu et al. 2021): ``x W + scale x A B``. The weight W is frozen, A and B are
trained.

B begins as 0, so the adapted map begins as the map itself. With a magnitude (DoRA, Liu et al. 2024, section 4), each
column of ``W + scale A B`` is divided by its length and multiplied by a trained one. As in section 4.3 of that paper,
no gradient goes through the length that it is divided by. With dropout and that factor f of a column it computes
``x W + (f - 1) d W + f scale d A B``, where d is x after the dropout.

Dropout sets features of the adapter's input to 0. Its masks are a function of one number for each sequence,
`LowRank.seeds`. The step makes these numbers from the run's seed, the step and the row of the batch, so neither
microbatches nor the mesh change them.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import RANK, elementwise, recomputed
from halcyon.models.dropout import dropped
from halcyon.models.parameters import STACKED_AXES, Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.coded import Coded
from halcyon.models.parts.weight import apply_weight, uniform
from halcyon_api.spec.narrow_products import NarrowProducts


class LowRank(eqx.Module):
    """The trained part of an adapted linear map.

    Attributes:
        inputs: The axes that the map sums over.
        rank: The axis between the two factors.
        scale: Factor of their product.
        dropout: Share of the input's features that training sets to 0.
        down: A: float32 (*stacked, *inputs, rank).
        up: B: float32 (*stacked, rank, *outputs).
        magnitude: Length of each column of the adapted weight: float32 (*stacked, *outputs). None: its own.
        seeds: One number for each sequence: uint32 (*stacked, batch). None: no dropout. It is no parameter:
            `with_dropout` sets it for one microbatch.
    """

    inputs: tuple[Axis, ...] = eqx.field(static=True)
    rank: Axis = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    down: NamedArray = parameter(Role.ADAPTER, inputs="inputs")
    up: NamedArray = parameter(Role.ADAPTER, inputs="rank")
    magnitude: NamedArray | None = parameter(Role.NORM)
    seeds: NamedArray | None = None

    @staticmethod
    def init(
        weight: NamedArray | Coded,
        inputs: tuple[Axis, ...],
        rank: int,
        scale: float,
        *,
        dropout: float = 0.0,
        dora: bool = False,
        key: PRNGKeyArray,
    ) -> LowRank:
        """A is even in +-1 / sqrt(inputs) (He et al. 2015, with a slope of sqrt(5)), B is 0, and magnitudes are the
        lengths of columns.

        Args:
            weight: The weight, with all stacked axes.
            inputs: The axes that the map sums over.
            rank: Size of the axis between the factors.
            scale: See the class.
            dropout: See the class.
            dora: Whether it has magnitudes.
            key: Random key.
        """
        names = {axis.name for axis in inputs}
        stacked = tuple(axis for axis in weight.axes if axis.name in STACKED_AXES)
        outputs = tuple(axis for axis in weight.axes if axis not in stacked and axis.name not in names)
        between = Axis(RANK, rank)
        bound = 1 / math.sqrt(math.prod(axis.size for axis in inputs))
        down = uniform(key, stacked, inputs, (between,), within=(-bound, bound), dtype=jnp.dtype(jnp.float32))
        up = hax.zeros((*stacked, between, *outputs), dtype=jnp.float32)
        return LowRank(
            inputs, between, scale, dropout, down, up, _lengths(weight.astype(jnp.float32), inputs) if dora else None
        )

    def __call__(
        self, x: NamedArray, y: NamedArray, weight: NamedArray | Coded, products: NarrowProducts | None = None
    ) -> NamedArray:
        """The adapted map of `x`, before its bias, in the axes and the type of `y`.

        Args:
            x: (..., *inputs).
            y: ``x . weight``: (..., *outputs).
            weight: The frozen weight.
            products: Type of the factors of its product; see `apply_weight`.
        """
        dropped = self._dropped(x)
        low: Any = divided(apply_weight(dropped, self.down, self.inputs))
        added: Any = apply_weight(low, self.up, (self.rank,))
        both = elementwise(
            lambda y, added: (y.astype(jnp.float32) + self.scale * added.astype(jnp.float32)).astype(y.dtype), y, added
        )
        if self.magnitude is None:
            return both
        factor: Any = self.magnitude / _lengths(jax.lax.stop_gradient(self._adapted(weight)), self.inputs)
        if dropped is x:
            scaled = recomputed(lambda y, factor: (y.astype(jnp.float32) * factor).astype(y.dtype))
            return elementwise(scaled, both, factor)
        # As in peft: the map itself sees all of x, what the magnitude adds to it sees the features that are left.
        plain = apply_weight(dropped, weight, self.inputs, products)

        def with_magnitude(y: jax.Array, plain: jax.Array, added: jax.Array, factor: jax.Array) -> jax.Array:
            y, plain, added = (each.astype(jnp.float32) for each in (y, plain, added))
            return y + (factor - 1) * plain + factor * self.scale * added

        return elementwise(recomputed(with_magnitude), y, plain, added, factor).astype(y.dtype)

    def merged(self, weight: NamedArray | Coded) -> NamedArray:
        """The weight of a plain linear map that computes the same as the adapted one. `weight` has all stacked axes."""
        adapted: Any = self._adapted(weight)
        if self.magnitude is not None:
            adapted = adapted * (self.magnitude / _lengths(adapted, self.inputs))
        return adapted.rearrange(weight.axes).astype(weight.dtype)

    def _adapted(self, weight: NamedArray | Coded) -> NamedArray:
        product: Any = hax.dot(self.down, self.up, axis=self.rank, precision=jax.lax.Precision.HIGHEST)
        return weight.astype(jnp.float32) + product.rearrange(weight.axes) * self.scale

    def _dropped(self, x: NamedArray) -> NamedArray:
        return x if self.seeds is None or not self.dropout else dropped(x, self.seeds, self.dropout)


def _lengths(weight: NamedArray, inputs: tuple[Axis, ...]) -> NamedArray:
    """The length of each column: float32, without the inputs."""
    squares: Any = hax.sum(weight * weight, tuple(axis.name for axis in inputs))
    return hax.sqrt(squares)
