"""Lion (Chen et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, UpdateRule


class LionSpec(UpdateRule):
    """Lion (Chen et al. 2023). It needs about a fifth of AdamW's learning rate and five times its weight decay."""

    beta1: Decay = Field(default=0.9, description="Share of the momentum in the direction.")
    beta2: Decay = Field(default=0.99, description="Decay of the momentum.")

    moments: ClassVar[int] = 1
