"""AdamW (Loshchilov and Hutter 2019)."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel


class AdamWSpec(ApiModel):
    """AdamW (Loshchilov and Hutter 2019)."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the root of the second moment.")
