"""Muon for hidden matrices beside AdamW for groups of other parameters, as nanochat trains its models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel
from halcyon_api.spec.rules.common import Decay, Positive
from halcyon_api.spec.rules.matrices import IterationType


class AdamWGroupSpec(ApiModel):
    """AdamW group."""

    match: Annotated[str, StringConstraints(max_length=253), Field(min_length=1)] = Field(description="Pattern of paths.")
    learning_rate: Positive = Field(default=1.0, description="Factor of the learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, description="Constant decay.")
    beta1: Decay = Field(default=0.8, description="Decay of the first moment.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")


class MuonAdamWSpec(ApiModel):
    """Muon of nanochat (Karpathy 2026); AdamW for the rest."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.9, description="Decay of the second moment.")
    epsilon: Positive = Field(default=1e-10, description="Of AdamW.")
    iteration_type: IterationType = Field(default="float32", description="See `matrices`.")
    groups: Annotated[list[AdamWGroupSpec], Field(max_length=32)] = Field(
        default=[], description="Groups of AdamW; the rest has their defaults."
    )
