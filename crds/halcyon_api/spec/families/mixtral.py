"""``spec.model.mixtral``: Mixtral."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import SlidingWindow
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation, Count, Width


class MixtralSpec(ExpertsSection):
    """A Mixtral decoder (Jiang et al. 2024): a Mistral with experts in every layer."""

    intermediate_size: Width = Field(default=2048, description="Width of an expert.")
    rope_theta: float = Field(default=1_000_000.0, gt=0, description="Base of the rotary frequencies.")
    rms_norm_eps: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    hidden_act: Activation = Field(default="silu", description=ACTIVATION_DESCRIPTION)
    sliding_window: SlidingWindow | None = optional(
        "Positions that attention sees, its own included. Default: all earlier ones."
    )
    num_local_experts: Count = Field(default=8, description="Experts of a layer.")
    num_experts_per_tok: Count = Field(default=2, description="Experts that a token goes to.")

    published: ClassVar[str] = "Mixtral 8x7B and 8x22B"
    rules: ClassVar[tuple[Rule, ...]] = (*ExpertsSection.rules, per_token_rule("numLocalExperts", "num_local_experts"))

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return ExpertSizes(
            experts=self.num_local_experts,
            per_token=self.num_experts_per_tok,
            mlp=self.intermediate_size,
            with_experts=(True,) * self.num_hidden_layers,
            expert_field="numLocalExperts",
            mlp_field="intermediateSize",
        )
