"""``spec.model.gptOss``: gpt-oss."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pydantic import Field

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import (
    LAYER_TYPES_DESCRIPTION,
    ONE_TYPE_A_LAYER,
    LayerType,
    LayerTypes,
    SlidingWindow,
)
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import Count, DecoderSizes, Width


class GptOssSpec(ExpertsSection):
    """A gpt-oss decoder (OpenAI 2025): attention sinks, a window in every other layer, biases everywhere, experts
    with a clamped SwiGLU.
    """

    intermediate_size: Width = Field(default=2048, description="Width of an expert.")
    rope_theta: float = Field(default=150_000.0, gt=0, description="Base of the rotary frequencies.")
    rms_norm_eps: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    attention_bias: bool = Field(default=True, description="Biases of all four projections of attention.")
    sliding_window: SlidingWindow = Field(
        default=128, description="Positions that a layer with `sliding_attention` sees, its own included."
    )
    layer_types: LayerTypes | None = optional(
        f"{LAYER_TYPES_DESCRIPTION} Default: in turn, from `sliding_attention` on."
    )
    swiglu_alpha: float = Field(default=1.702, gt=0, description="Factor inside the sigmoid of an expert's gate.")
    swiglu_limit: float = Field(
        default=7.0, gt=0, description="Limit of an expert's gate, and of both signs of what it multiplies."
    )
    num_local_experts: Count = Field(default=128, description="Experts of a layer.")
    num_experts_per_tok: Count = Field(default=4, description="Experts that a token goes to.")

    published: ClassVar[str] = "gpt-oss 20B and 120B"
    rules: ClassVar[tuple[Rule, ...]] = (
        *ExpertsSection.rules,
        ONE_TYPE_A_LAYER,
        per_token_rule("numLocalExperts", "num_local_experts"),
    )

    @property
    def layers_by_type(self) -> tuple[LayerType, ...]:
        """See `DecoderSection.layers_by_type`."""
        if self.layer_types is not None:
            return tuple(self.layer_types)
        return tuple("full_attention" if layer % 2 else "sliding_attention" for layer in range(self.num_hidden_layers))

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(
            super().sizes(), query_bias=self.attention_bias, output_bias=self.attention_bias, sinks=True
        )

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return ExpertSizes(
            experts=self.num_local_experts,
            per_token=self.num_experts_per_tok,
            mlp=self.intermediate_size,
            with_experts=(True,) * self.num_hidden_layers,
            bias=True,
            expert_field="numLocalExperts",
            mlp_field="intermediateSize",
        )
