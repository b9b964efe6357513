"""Kron, the Kronecker form of PSGD (Li 2024)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Positive, UpdateRule


class KronSpec(UpdateRule):
    """PSGD with Kronecker factors (Li 2024), for hidden matrices."""

    momentum: Decay = Field(default=0.9, description="Decay of the momentum.")
    factor_rate: Positive = Field(default=0.1, description="Learning rate of the factors.")
    matrix_rate: Positive = Field(default=0.33, description="Factor of the learning rate.")

    moments: ClassVar[int] = 3
    least_moments: ClassVar[int | None] = 1
    draws: ClassVar[bool] = True
