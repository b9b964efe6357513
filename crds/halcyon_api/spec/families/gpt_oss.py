"""The family ``gptOss``: gpt-oss."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.base import optional
from halcyon_api.spec.families.decoder import LAYER_TYPES_DESCRIPTION, ONE_TYPE_A_LAYER, LayerTypes, SlidingWindow
from halcyon_api.spec.families.experts import ExpertSizes, LocalExpertsSection
from halcyon_api.spec.families.section import Count, DecoderSizes


class GptOssSpec(LocalExpertsSection):
    """A gpt-oss decoder (OpenAI 2025): attention sinks, a window in every other layer, biases everywhere, experts
    with a clamped SwiGLU.
    """

    family: Literal["gptOss"] = "gptOss"
    rope_theta: PositiveFloat = 150_000.0
    """Base of the rotary frequencies."""
    rms_norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    attention_bias: bool = True
    """Biases of all four projections of attention."""
    sliding_window: SlidingWindow = 128
    """Positions that a layer with a window sees, its own included."""
    layer_types: LayerTypes | None = optional(f"{LAYER_TYPES_DESCRIPTION} Default: the pattern of the family.")
    swiglu_alpha: PositiveFloat = 1.702
    """Factor inside the sigmoid of an expert's gate."""
    swiglu_limit: PositiveFloat = 7.0
    """Limit of an expert's gate, and of both signs of what it multiplies."""
    num_local_experts: Count = 128
    num_experts_per_tok: Count = 4

    published: ClassVar = "gpt-oss 20B and 120B"
    rules: ClassVar = (*LocalExpertsSection.rules, ONE_TYPE_A_LAYER)

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        return "full_attention" if layer % 2 else "sliding_attention"

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(
            super().sizes(), query_bias=self.attention_bias, output_bias=self.attention_bias, sinks=True
        )

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return dataclasses.replace(super().experts(), bias=True)
