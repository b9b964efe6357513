"""Kron, the Kronecker form of PSGD (Li 2024)."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Decay, Positive


class KronSpec(ApiModel):
    """PSGD with Kronecker factors (Li 2024), for hidden matrices."""

    momentum: Decay = Field(default=0.9, description="Decay of the momentum.")
    factor_rate: Positive = Field(default=0.1, description="Learning rate of the factors.")
    matrix_rate: Positive = Field(default=0.33, description="Factor of the learning rate.")
