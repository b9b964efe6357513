"""The families ``qwen2``, ``qwen3`` and ``qwen3Moe``, and what all Qwen with experts share."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families import decoder
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection, per_token_rule
from halcyon_api.spec.families.section import Count, DecoderSizes, HiddenAct, NonNegative, Width
from halcyon_api.spec.families.vision import QwenVisionSpec

LayerNumbers = Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(max_length=1024)]


class QwenSection(decoder.DecoderSection):
    """What the dense families of Qwen share."""

    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    hidden_act: HiddenAct = "silu"
    use_sliding_window: bool = False
    """Whether the layers from number `maxWindowLayers` on see only a window."""
    sliding_window: decoder.SlidingWindow | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {decoder.DEFAULT_WINDOW}."
    )
    max_window_layers: NonNegative = 28
    """Layers, from the first, that see the whole sequence."""
    layer_types: decoder.LayerTypes | None = optional(
        f"{decoder.LAYER_TYPES_DESCRIPTION} Default: by `useSlidingWindow`."
    )

    default_window: ClassVar = decoder.DEFAULT_WINDOW
    rules: ClassVar = (
        *decoder.DecoderSection.rules,
        decoder.ONE_TYPE_A_LAYER,
        Rule(
            "self.useSlidingWindow || !has(self.layerTypes) || !('sliding_attention' in self.layerTypes)",
            "layerTypes has sliding_attention, so useSlidingWindow must be true",
            ".useSlidingWindow",
        ),
    )

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        return "sliding_attention" if self.use_sliding_window and layer >= self.max_window_layers else "full_attention"


class Qwen2Spec(QwenSection):
    """A Qwen 2 or 2.5 decoder (Yang et al. 2024): a Llama with biases of queries, keys and values, and perhaps
    images.
    """

    family: Literal["qwen2"] = "qwen2"
    vision: QwenVisionSpec | None = optional("Its encoder of images. Not set: text alone.")

    published: ClassVar = "Qwen 2 and 2.5, 0.5B to 72B; Qwen 2.5-VL, 3B to 72B"
    rules: ClassVar = (
        *QwenSection.rules,
        Rule(
            "!has(self.vision) || self.vision.?headDim.orValue(80) % 4 == 0",
            "vision.headDim must be a multiple of 4: its halves are rotated by rows and by columns",
            ".vision.headDim",
        ),
    )

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), query_bias=True)


class Qwen3Spec(QwenSection):
    """A dense Qwen 3 decoder (Yang et al. 2025): a Llama with norms of each head's queries and keys."""

    family: Literal["qwen3"] = "qwen3"
    attention_bias: bool = False
    """Biases of all four projections of attention."""

    published: ClassVar = "Qwen 3, 0.6B to 32B"

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        bias = self.attention_bias
        return dataclasses.replace(super().sizes(), query_norm="head", query_bias=bias, output_bias=bias)


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
    sliding_window: decoder.SlidingWindow | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {decoder.DEFAULT_WINDOW}."
    )

    default_window: ClassVar = decoder.DEFAULT_WINDOW
    published: ClassVar = "Qwen3 30B-A3B and 235B-A22B"
    rules: ClassVar = (*ExpertsSection.rules, per_token_rule("numExperts"))

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        del layer
        return "sliding_attention" if self.use_sliding_window else "full_attention"
