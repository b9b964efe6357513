"""Linear maps, of the products in `halcyon.models.parts.weight`.

Precision. A layer takes and returns activations in the compute type. Parameters keep their own type and are cast next
to the product, so that a sharded weight is gathered over the network in the compute type. Norms always compute in
float32. Gradients of parameters are sums over the batch and its positions, so they are float32 from the first product
or look-up on, over the network too: in a narrow type, a sum of thousands of terms no longer changes once a term is less
than half of its last digit.

With `halcyon.models.model.with_products` the linear maps of a model round the factors of their products to 8 bits or
less.

The layers of ``haliax.nn`` are not used, for three reasons: its norms compute in the type of their input, its
initialisation is fixed to fan-in scaling, and its linear layer has a function as a leaf of the tree, which ``jax.jit``
and checkpoints reject.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.coded import Coded
from halcyon.models.parts.low_rank import LowRank
from halcyon.models.parts.weight import add_wide, apply_weight, normal
from halcyon_api.spec.narrow_products import NarrowProducts


class Linear(eqx.Module):
    """``x . weight + bias`` with named inputs and outputs.

    Attributes:
        inputs: The axes that it sums over.
        role: The role of the weight.
        weight: (*inputs, *outputs). A frozen one can be held as codes.
        bias: (outputs). None: no bias.
        products: Type of the factors; see `apply_weight`.
        adapter: What is trained beside a frozen weight; None: nothing. Code that uses `weight` without a call ignores
            it.
    """

    inputs: tuple[Axis, ...] = eqx.field(static=True)
    role: Role = eqx.field(static=True)
    weight: NamedArray | Coded = parameter("role", inputs="inputs")
    bias: NamedArray | None = parameter(Role.BIAS)
    products: NarrowProducts | None = eqx.field(static=True, default=None)
    adapter: LowRank | None = None

    @staticmethod
    def init(
        inputs: tuple[Axis, ...],
        outputs: tuple[Axis, ...],
        *,
        stacked: tuple[Axis, ...] = (),
        std: float,
        dtype: jnp.dtype,
        bias: bool = False,
        role: Role = Role.MATRIX,
        key: PRNGKeyArray,
    ) -> Linear:
        """Normal weights (*stacked, *inputs, *outputs) and, if `bias`, a zero bias (*stacked, *outputs)."""
        weight = normal(key, stacked, inputs, outputs, std=std, dtype=dtype)
        return Linear(inputs, role, weight, hax.zeros((*stacked, *outputs), dtype=dtype) if bias else None)

    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., *inputs) to (..., *outputs)."""
        y: Any = apply_weight(x, self.weight, self.inputs, self.products)
        if self.adapter is not None:
            y = self.adapter(x, y, self.weight, self.products)
        if self.bias is not None:
            y = add_wide(y, self.bias)
        return divided(y)
