"""``spec.optimizer``: the update rule, and the settings that all rules share.

A new rule is a class in `halcyon_api.spec.rules`, and a member here.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.base import OneOf, Rule, RuledModel
from halcyon_api.spec.rules.adamw import AdamWSpec
from halcyon_api.spec.rules.kron import KronSpec
from halcyon_api.spec.rules.lion import LionSpec
from halcyon_api.spec.rules.matrices import MatricesSpec
from halcyon_api.spec.rules.muon import MuonHSpec, MuonSpec, NorMuonSpec, SoapMuonSpec
from halcyon_api.spec.rules.muon_adamw import MuonAdamWSpec
from halcyon_api.spec.rules.scion import ScionSpec
from halcyon_api.spec.rules.soap import SoapSpec
from halcyon_api.spec.schedule import OtherSchedulesSpec, ScheduleSpec, cosine

FOR_MATRICES = ("muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion")
"""The rules for hidden matrices. They share the settings of `OptimizerSpec.matrices`."""

MOMENTUM: dict[str, str] = {"adamw": "beta1", "muonAdamw": "momentum"}
"""The rules with a momentum that a schedule can set, each with its member for a constant momentum."""


class OptimizerSpec(OneOf, RuledModel):
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""

    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    schedule: ScheduleSpec = Field(default_factory=cosine, description="Learning rate schedule: exactly one member. Default: `cosine`.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled decay of matrices; norms, biases and embeddings do not decay.")
    max_gradient_norm: float = Field(default=1.0, ge=0, description="Global gradient norm to clip to; 0: do not clip.")
    other_schedules: OtherSchedulesSpec | None = Field(default=None, description="Schedules besides that of the learning rate.")
    adamw: AdamWSpec | None = Field(default=None, description="AdamW.")
    lion: LionSpec | None = Field(default=None, description="Lion.")
    muon: MuonSpec | None = Field(default=None, description="Muon.")
    normuon: NorMuonSpec | None = Field(default=None, description="NorMuon.")
    muon_h: MuonHSpec | None = Field(default=None, description="MuonH.")
    soap: SoapSpec | None = Field(default=None, description="SOAP.")
    soap_muon: SoapMuonSpec | None = Field(default=None, description="SOAP-Muon.")
    kron: KronSpec | None = Field(default=None, description="PSGD-Kron.")
    scion: ScionSpec | None = Field(default=None, description="Scion.")
    muon_adamw: MuonAdamWSpec | None = Field(default=None, description="Muon beside groups of AdamW.")
    matrices: MatricesSpec | None = Field(default=None, description="What the rules for hidden matrices share.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.matrices) || {' || '.join(f'has(self.{name})' for name in FOR_MATRICES)}",
            lambda spec: spec.matrices is None or spec.kind in FOR_MATRICES,
            "matrices is for rules for hidden matrices, such as muon; delete it",
            field_path=".matrices",
        ),
    )

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The update rules; other optional members are common to all."""
        return tuple(name for name in super().kinds() if name not in ("matrices", "other_schedules"))
