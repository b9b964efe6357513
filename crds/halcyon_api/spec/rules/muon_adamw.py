"""Muon for hidden matrices beside AdamW for other parameters, as nanochat trains its models."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Positive, UpdateRule
from halcyon_api.spec.rules.matrices import IterationType


class MuonAdamWSpec(UpdateRule):
    """Muon of nanochat (Karpathy 2026); AdamW without decay for the rest."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.9, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-10, description="Of AdamW.")
    iteration_type: IterationType = Field(default="float32", description="See `matrices`.")

    moments: ClassVar[int] = 1
