"""``spec.optimizer``: the update rule, and the settings that all rules share.

A new rule is a class in `halcyon_api.spec.rules`, and a member here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf, Rule, RuledModel
from halcyon_api.spec.rules.adamw import AdamWSpec
from halcyon_api.spec.rules.kron import KronSpec
from halcyon_api.spec.rules.lion import LionSpec
from halcyon_api.spec.rules.matrices import MatricesSpec
from halcyon_api.spec.rules.muon import MuonHSpec, MuonSpec, NorMuonSpec, SoapMuonSpec
from halcyon_api.spec.rules.scion import ScionSpec
from halcyon_api.spec.rules.soap import SoapSpec

Step = Annotated[int, Field(ge=0, le=1_000_000_000)]
DecaySteps = Annotated[int, Field(ge=1, le=1_000_000_000)]


class ConstantScheduleSpec(ApiModel):
    """The learning rate rises linearly and then stays."""

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")


class CosineScheduleSpec(ApiModel):
    """The learning rate rises linearly, then falls along half a cosine until the last step."""

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")
    min_ratio: float = Field(default=0.1, ge=0, le=1, description="Last learning rate as a share of the peak.")
    decay_steps: DecaySteps | None = Field(
        default=None,
        description=(
            "Step at which the last learning rate is reached; it stays there. `trainer.steps` may then change. Default: the last step of "
            "the run; `trainer.steps` must then not change after the warm-up."
        ),
    )


class WsdScheduleSpec(ApiModel):
    """Warm-up, stable, decay (Hu et al. 2024): the learning rate rises linearly, stays, and falls linearly over the last steps.

    `trainer.steps` may change until the decay begins.
    """

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")
    decay_steps: DecaySteps = Field(description="Steps of the decay, at the end of the run.")
    min_ratio: float = Field(default=0.0, ge=0, le=1, description="Last learning rate as a share of the peak.")


class ScheduleSpec(OneOf):
    """The learning rate schedule: exactly one member."""

    constant: ConstantScheduleSpec | None = Field(default=None, description="Warm-up, then constant.")
    cosine: CosineScheduleSpec | None = Field(default=None, description="Warm-up, then half a cosine.")
    wsd: WsdScheduleSpec | None = Field(default=None, description="Warm-up, constant, then a linear decay over the last steps.")


def _cosine() -> ScheduleSpec:
    return ScheduleSpec(cosine=CosineScheduleSpec())


FOR_MATRICES = ("muon", "normuon", "muonH", "soap", "soapMuon", "kron", "scion")
"""The rules for hidden matrices. They share the settings of `OptimizerSpec.matrices`."""


class OptimizerSpec(OneOf, RuledModel):
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""

    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    schedule: ScheduleSpec = Field(default_factory=_cosine, description="Learning rate schedule: exactly one member. Default: `cosine`.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled decay of matrices; norms, biases and embeddings do not decay.")
    max_gradient_norm: float = Field(default=1.0, ge=0, description="Global gradient norm to clip to; 0: do not clip.")
    adamw: AdamWSpec | None = Field(default=None, description="AdamW.")
    lion: LionSpec | None = Field(default=None, description="Lion.")
    muon: MuonSpec | None = Field(default=None, description="Muon.")
    normuon: NorMuonSpec | None = Field(default=None, description="NorMuon.")
    muon_h: MuonHSpec | None = Field(default=None, description="MuonH.")
    soap: SoapSpec | None = Field(default=None, description="SOAP.")
    soap_muon: SoapMuonSpec | None = Field(default=None, description="SOAP-Muon.")
    kron: KronSpec | None = Field(default=None, description="PSGD-Kron.")
    scion: ScionSpec | None = Field(default=None, description="Scion.")
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
        """The update rules."""
        return tuple(name for name in super().kinds() if name != "matrices")
