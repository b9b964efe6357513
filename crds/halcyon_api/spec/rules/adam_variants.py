"""Rules that differ from AdamW in a part: its moments, the gradient that they are made of, or the form of the
update.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Positive, Steps, UpdateRule


class AdoptSpec(UpdateRule):
    """ADOPT (Taniguchi et al. 2024): the second moment of the steps before divides the gradient."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.9999, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-6, description="Least divisor.")

    wide_only: ClassVar[bool] = True


class MarsSpec(UpdateRule):
    """MARS-AdamW (Yuan et al. 2024): AdamW of gradients whose variance the last gradient reduces."""

    beta1: Decay = Field(default=0.95, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.99, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    gamma: Positive = Field(default=0.025, description="Scale of the reduction.")

    moments: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True


class AdemamixSpec(UpdateRule):
    """AdEMAMix (Pagliardini et al. 2024): AdamW with a second, slow first moment."""

    beta1: Decay = Field(default=0.9, description="Decay of the fast moment.")
    beta2: Decay = Field(default=0.999, description="Decay of the second moment.")
    beta3: Decay = Field(default=0.9999, description="Decay of the slow moment.")
    alpha: Positive = Field(default=5.0, description="Factor of the slow moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    warmup_steps: Steps = Field(default=0, description="Steps in which beta3 and alpha rise.")

    moments: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True


class ScheduleFreeSpec(UpdateRule):
    """Schedule-free AdamW (Defazio et al. 2024). Use a constant schedule with a warm-up."""

    beta1: Positive = Field(default=0.9, lt=1, description="Share of the average in the trained point.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")

    wide_only: ClassVar[bool] = True


class AdamMiniSpec(UpdateRule):
    """Adam-mini (Zhang et al. 2024): one second moment for a head, a neuron, a token or a vector."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")

    moments: ClassVar[int] = 1
    wide_only: ClassVar[bool] = True


class AdamHSpec(UpdateRule):
    """AdamH (Wen et al. 2025): Adam on the sphere of each matrix's norm, without decay; AdamW for the rest."""

    beta1: Decay = Field(default=0.9, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-8, description="Added to the root.")
    matrix_rate: Positive = Field(
        default=6.0, description="Factor of the learning rate; the product is a share of the norm."
    )

    wide_only: ClassVar[bool] = True
