"""Scion (Pethick et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Positive, UpdateRule


class ScionSpec(UpdateRule):
    """Scion (Pethick et al. 2025): each parameter moves towards the edge of a ball of its own norm."""

    momentum: Decay = Field(default=0.9, description="Decay of the momentum.")
    radius: Positive = Field(default=50.0, description="Radius for hidden matrices.")
    outer_radius: Positive = Field(default=3000.0, description="Radius for embeddings and head.")
    constrained: bool = Field(default=True, description="Stay in the ball, in place of `weightDecay`.")
    matrix_rate: Positive = Field(default=0.1, description="Factor of the learning rate.")

    moments: ClassVar[int] = 1
