"""The families ``qwen2`` and ``qwen3``: Qwen."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.base import Rule, optional
from halcyon_api.spec.families.decoder import (
    DEFAULT_WINDOW,
    LAYER_TYPES_DESCRIPTION,
    ONE_TYPE_A_LAYER,
    DecoderSection,
    LayerTypes,
    SlidingWindow,
)
from halcyon_api.spec.families.section import DecoderSizes, HiddenAct, NonNegative


class QwenSection(DecoderSection):
    """What the dense families of Qwen share."""

    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    hidden_act: HiddenAct = "silu"
    use_sliding_window: bool = False
    """Whether the layers from number `maxWindowLayers` on see only a window."""
    sliding_window: SlidingWindow | None = optional(
        f"Positions that a layer with a window sees, its own included. Default: {DEFAULT_WINDOW}."
    )
    max_window_layers: NonNegative = 28
    """Layers, from the first, that see the whole sequence."""
    layer_types: LayerTypes | None = optional(f"{LAYER_TYPES_DESCRIPTION} Default: by `useSlidingWindow`.")

    default_window: ClassVar = DEFAULT_WINDOW
    rules: ClassVar = (
        *DecoderSection.rules,
        ONE_TYPE_A_LAYER,
        Rule(
            "self.useSlidingWindow || !has(self.layerTypes) || !('sliding_attention' in self.layerTypes)",
            lambda self: self.use_sliding_window or "sliding_attention" not in (self.layer_types or ()),
            "layerTypes has sliding_attention, so useSlidingWindow must be true",
            ".useSlidingWindow",
        ),
    )

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        return "sliding_attention" if self.use_sliding_window and layer >= self.max_window_layers else "full_attention"


class Qwen2Spec(QwenSection):
    """A Qwen 2 or 2.5 decoder (Yang et al. 2024): a Llama with biases of queries, keys and values."""

    family: Literal["qwen2"] = "qwen2"
    published: ClassVar = "Qwen 2 and 2.5, 0.5B to 72B"

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
        return dataclasses.replace(
            super().sizes(), query_norm="head", query_bias=self.attention_bias, output_bias=self.attention_bias
        )
