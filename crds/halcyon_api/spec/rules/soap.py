"""SOAP (Vyas et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Every, UpdateRule


class SoapSpec(UpdateRule):
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo, for hidden matrices."""

    beta1: Decay = Field(default=0.95, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of second moments.")
    every_steps: Every = Field(default=10, description="Steps between eigenbases.")

    moments: ClassVar[int] = 6
    least_moments: ClassVar[int | None] = 2
