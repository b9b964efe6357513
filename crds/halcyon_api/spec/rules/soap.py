"""SOAP (Vyas et al. 2024)."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Decay, Every


class SoapSpec(ApiModel):
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo, for hidden matrices."""

    beta1: Decay = Field(default=0.95, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of second moments.")
    every_steps: Every = Field(default=10, description="Steps between eigenbases.")
