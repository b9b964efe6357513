"""The families ``mistral`` and ``mixtral``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.spec.families.decoder import DecoderSection, SlidingWindow
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import Count, HiddenAct, Width


class MistralSection(DecoderSection):
    """What the families of Mistral share."""

    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_act: HiddenAct = "silu"
    sliding_window: SlidingWindow | None = None
    """Positions that a layer with a window sees, its own included. Default: no window."""


class MistralSpec(MistralSection):
    """A Mistral decoder (Jiang et al. 2023): a Llama whose attention may see only a window."""

    family: Literal["mistral"] = "mistral"

    published: ClassVar = "Mistral 7B, Nemo 12B, Small 22B and 24B (text)"


class MixtralSpec(MistralSection, ExpertsSection):
    """A Mixtral decoder (Jiang et al. 2024): a Mistral with experts in every layer."""

    family: Literal["mixtral"] = "mixtral"
    intermediate_size: Width = 2048
    """Width of an expert."""
    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    num_local_experts: Count = 8
    """Experts of a layer."""
    num_experts_per_tok: Count = 2
    """Experts that a token goes to."""

    published: ClassVar = "Mixtral 8x7B and 8x22B"
    rules: ClassVar = (*ExpertsSection.rules, per_token_rule("numLocalExperts", "num_local_experts"))

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
