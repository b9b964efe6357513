"""Muon and the rules that orthogonalise their updates as Muon does."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.spec.rules.common import Decay, Every, Positive, UpdateRule


class MuonSpec(UpdateRule):
    """Muon (Jordan et al. 2024) for hidden matrices."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    nesterov: bool = Field(default=True, description="Nesterov momentum.")

    moments: ClassVar[int] = 1


class NorMuonSpec(UpdateRule):
    """NorMuon (Li et al. 2025): Muon with one size for the updates of all outputs of a matrix."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.95, description="Decay of the second moment.")

    moments: ClassVar[int] = 1


class MuonHSpec(UpdateRule):
    """MuonH (Wen et al. 2025): Muon on the sphere of each matrix's norm, without decay."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    matrix_rate: Positive = Field(
        default=6.0, description="Factor of the learning rate; the product is a share of the norm."
    )

    moments: ClassVar[int] = 1


class SoapMuonSpec(UpdateRule):
    """SOAP-Muon (Vyas et al. 2025): Muon of the update that SOAP scales in its eigenbasis."""

    momentum: Decay = Field(default=0.95, description="Decay of the momentum.")
    beta2: Decay = Field(default=0.9, description="Decay of second moments.")
    every_steps: Every = Field(default=1, description="Steps between eigenbases.")

    moments: ClassVar[int] = 6
    least_moments: ClassVar[int | None] = 2
