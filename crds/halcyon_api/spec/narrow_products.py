"""``trainer.precision.narrowProducts``: the finer choices for factors of 8 bits and less.

A field that is left out depends on the type and on the other fields; `NarrowProducts.of` has the rules.
docs/design/numbers.md has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halcyon_api.base import ApiModel
from halcyon_api.hardware.kinds import NarrowType

Scales = Literal["row", "tensor"]
Float8 = Literal["e4m3", "e5m2"]
FastAccumulation = Literal["never", "forward", "always"]

HEAD_TYPES: tuple[NarrowType, ...] = ("float8", "mxfp8")
"""Types in which the output head can be multiplied: the gradient of a softmax needs their range."""
PARAMETER_GRADIENT_TYPES: tuple[NarrowType, ...] = ("float8", "int8", "mxfp8")
"""Types in which gradients of parameters can be multiplied."""


class NarrowProductsSpec(ApiModel):
    """How the factors of narrow products are rounded and added up."""

    scales: Scales | None = None
    """The values that share a scale. row: those that one sum goes over, so tokens do not depend on each other; tensor:
    all values of a factor. For float8 and int8 only: mxfp8 and nvfp4 have a scale for each 32 or 16 values. Default:
    row."""
    gradients: Float8 | None = None
    """Type of the gradients that are factors, for float8 only. e4m3 has 3 bits after the first one, e5m2 has 2 and a
    larger range. Gradients of logits are always e5m2, those of experts always e4m3. Default: e4m3 with scales by row,
    e5m2 by tensor."""
    fast_accumulation: FastAccumulation | None = None
    """The products of float8 that GPUs of compute capability 9 may add up in about 14 bits, which is faster. forward:
    all but those for gradients. Default: never."""
    parameter_gradients: bool | None = None
    """Whether products for gradients of parameters are narrow too. Their sums go over all tokens of a device. Default:
    true for float8 and mxfp8, false for int8; nvfp4 has none."""
    head: bool | None = None
    """Whether the three products of the output head are narrow, for float8 and mxfp8 only. Default: true for these."""


@dataclass(frozen=True)
class NarrowProducts:
    """The type of the factors of a run's matrix products, and all choices, with their defaults filled in.

    Attributes:
        kind: ``trainer.precision.products``.
        scales: See `NarrowProductsSpec`, as all other attributes.
        gradients: For float8.
        fast_accumulation: For float8.
        parameter_gradients: Whether products for gradients of parameters are narrow.
        head: Whether the output head is narrow.
    """

    kind: NarrowType
    scales: Scales
    gradients: Float8
    fast_accumulation: FastAccumulation
    parameter_gradients: bool
    head: bool

    @staticmethod
    def of(kind: NarrowType, given: NarrowProductsSpec | None = None) -> NarrowProducts:
        """The choices of a document."""
        given = given or NarrowProductsSpec()
        scales = given.scales or "row"
        return NarrowProducts(
            kind=kind,
            scales=scales,
            gradients=given.gradients or ("e4m3" if scales == "row" else "e5m2"),
            fast_accumulation=given.fast_accumulation or "never",
            parameter_gradients=kind in ("float8", "mxfp8")
            if given.parameter_gradients is None
            else given.parameter_gradients,
            head=kind in HEAD_TYPES if given.head is None else given.head,
        )
