"""AdamW (Loshchilov and Hutter 2019), with options that later papers add."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.spec.rules.common import Positive, UpdateRule


class AdamWSpec(UpdateRule):
    """AdamW (Loshchilov and Hutter 2019)."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the root of the second moment.")
    cautious: bool | None = Field(
        default=None, description="Change only elements whose gradient has the sign of the update (Liang et al. 2024)."
    )
    corrected_decay: bool | None = Field(
        default=None, description="Decay of all matrices but the head falls with the rate (AdamC, Defazio 2025)."
    )
    clip_update: Positive | None = Field(
        default=None,
        description="Largest root mean square of a parameter's update, before the rate (Shazeer and Stern 2018).",
    )
