"""Lion (Chen et al. 2023)."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Decay


class LionSpec(ApiModel):
    """Lion (Chen et al. 2023). It needs about a fifth of AdamW's learning rate and five times its weight decay."""

    beta1: Decay = Field(default=0.9, description="Share of the momentum in the direction.")
    beta2: Decay = Field(default=0.99, description="Decay of the momentum.")
