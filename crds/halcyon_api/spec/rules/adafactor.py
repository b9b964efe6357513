"""Adafactor (Shazeer and Stern 2018)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Positive, UpdateRule


class AdafactorSpec(UpdateRule):
    """Adafactor (Shazeer and Stern 2018): factored second moments, no first. The rate is a share of a parameter's
    size.
    """

    decay_exponent: Positive = Field(default=0.8, description="The decay of moments is 1 - step ** -this.")
    epsilon: Positive = Field(default=1e-30, description="Added to squares of gradients.")
    least_size: Positive = Field(default=1e-3, description="Least root mean square of a parameter for its rate.")
    clip_update: Positive = Field(default=1.0, description="Greatest root mean square of an update.")

    moments: ClassVar[int] = 0
    wide_only: ClassVar[bool] = True
