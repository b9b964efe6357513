"""``spec.model.qwen3Moe``: Qwen 3 with experts."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import DEFAULT_WINDOW, LayerType, SlidingWindow
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import ACTIVATION_DESCRIPTION, Activation, Count, DecoderSizes, Width

LayerNumbers = Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(max_length=1024)]


class Qwen3MoeSpec(ExpertsSection):
    """A Qwen 3 decoder with experts (Yang et al. 2025)."""

    intermediate_size: Width = Field(default=2048, description="Width of the MLP of layers without experts.")
    rope_theta: float = Field(default=1_000_000.0, gt=0, description="Base of the rotary frequencies.")
    hidden_act: Activation = Field(default="silu", description=ACTIVATION_DESCRIPTION)
    attention_bias: bool = Field(default=False, description="Biases of all four projections of attention.")
    use_sliding_window: bool = Field(default=False, description="Whether all layers see only a window.")
    sliding_window: SlidingWindow | None = optional(
        f"Positions that a layer then sees, its own included. Default: {DEFAULT_WINDOW}."
    )
    num_experts: Count = Field(default=128, description="Experts of a layer.")
    num_experts_per_tok: Count = Field(default=8, description="Experts that a token goes to.")
    moe_intermediate_size: Width = Field(default=768, description="Width of an expert.")
    norm_topk_prob: bool = Field(
        default=True, description="Whether the weights of a token's experts are divided by their sum."
    )
    decoder_sparse_step: Count = Field(
        default=1,
        description="Each layer whose number, counted from 1, is a multiple of this has "
        "experts; the others have an MLP.",
    )
    mlp_only_layers: LayerNumbers = Field(
        default=[], description="Layers, counted from 0, that have an MLP in any case."
    )

    published: ClassVar[str] = "Qwen3 30B-A3B and 235B-A22B"
    rules: ClassVar[tuple[Rule, ...]] = (*ExpertsSection.rules, per_token_rule("numExperts", "num_experts"))

    @property
    def layers_by_type(self) -> tuple[LayerType, ...]:
        """See `DecoderSection.layers_by_type`."""
        kind: LayerType = "sliding_attention" if self.use_sliding_window else "full_attention"
        return (kind,) * self.num_hidden_layers

    @property
    def window(self) -> int | None:
        """See `DecoderSection.window`."""
        return self.sliding_window if self.sliding_window is not None else DEFAULT_WINDOW

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        bias = self.attention_bias
        return dataclasses.replace(super().sizes(), query_norm="head", query_bias=bias, output_bias=bias)

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        step, dense = self.decoder_sparse_step, set(self.mlp_only_layers)
        return ExpertSizes(
            experts=self.num_experts,
            per_token=self.num_experts_per_tok,
            mlp=self.moe_intermediate_size,
            with_experts=tuple(
                (layer + 1) % step == 0 and layer not in dense for layer in range(self.num_hidden_layers)
            ),
        )
