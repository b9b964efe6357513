"""The family ``qwen3Moe``: Qwen 3 with experts, and what all Qwen with experts share."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.base import optional
from halcyon_api.spec.families.decoder import DEFAULT_WINDOW, SlidingWindow
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import Count, DecoderSizes, HiddenAct, Width

LayerNumbers = Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(max_length=1024)]


class QwenExpertsSection(ExpertsSection):
    """What the families of Qwen with experts share."""

    intermediate_size: Width = 2048
    """Width of the MLP of layers without experts."""
    hidden_act: HiddenAct = "silu"
    attention_bias: bool = False
    """Biases of all four projections of attention."""
    num_experts: Count = 128
    """Experts of a layer. 0, only of qwen3Next: every layer has an MLP."""
    num_experts_per_tok: Count = 8
    """Experts that a token goes to."""
    moe_intermediate_size: Width = 768
    """Width of an expert."""
    norm_topk_prob: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    decoder_sparse_step: Count = 1
    """Each layer whose number, counted from 1, is a multiple of this has experts; the others have an MLP."""
    mlp_only_layers: LayerNumbers = Field(default=[])
    """Layers, counted from 0, that have an MLP in any case."""

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        bias = self.attention_bias
        return dataclasses.replace(super().sizes(), query_norm="head", query_bias=bias, output_bias=bias)

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`. Qwen3-Next may have none."""
        step, dense = self.decoder_sparse_step, set(self.mlp_only_layers)
        return ExpertSizes(
            experts=max(self.num_experts, 1),
            per_token=self.num_experts_per_tok,
            mlp=self.moe_intermediate_size,
            with_experts=tuple(
                self.num_experts > 0 and (layer + 1) % step == 0 and layer not in dense
                for layer in range(self.num_hidden_layers)
            ),
        )


class Qwen3MoeSpec(QwenExpertsSection):
    """A Qwen 3 decoder with experts (Yang et al. 2025)."""

    family: Literal["qwen3Moe"] = "qwen3Moe"
    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    use_sliding_window: bool = False
    """Whether all layers see only a window."""
    sliding_window: SlidingWindow | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {DEFAULT_WINDOW}."
    )

    default_window: ClassVar = DEFAULT_WINDOW
    published: ClassVar = "Qwen3 30B-A3B and 235B-A22B"
    rules: ClassVar = (*ExpertsSection.rules, per_token_rule("numExperts", "num_experts"))

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        del layer
        return "sliding_attention" if self.use_sliding_window else "full_attention"
