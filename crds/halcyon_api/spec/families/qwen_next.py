"""The family ``qwen3Next``: Qwen3-Next and Qwen 3.5, with gated delta nets beside attention."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.base import Rule, optional, shows
from halcyon_api.spec.families import decoder
from halcyon_api.spec.families.experts import ExpertSizes, ExpertsSection
from halcyon_api.spec.families.qwen import QwenExpertsSection
from halcyon_api.spec.families.section import Count, Width
from halcyon_api.spec.model_shape import ModelShape, Split

MixerType = Literal["full_attention", "linear_attention"]
"""Attention to the whole sequence, or a gated delta net."""
MixerTypes = Annotated[list[MixerType], Field(max_length=1024)]

_PATTERN = 4
"""Each layer whose number, counted from 1, is a multiple of this has attention."""
_STATE_PRODUCTS = 3
"""Products of a position with a state: the reading that corrects it, the correction, the output."""


class Qwen3NextSpec(QwenExpertsSection):
    """A Qwen3-Next or Qwen 3.5 text decoder (Qwen Team 2025): three gated delta nets for each layer with gated
    attention.
    """

    family: Literal["qwen3Next"] = "qwen3Next"
    rope_theta: PositiveFloat = 10_000_000.0
    """Base of the rotary frequencies."""
    partial_rotary_factor: float = Field(default=0.25, gt=0, le=1, description=decoder.PARTIAL_DESCRIPTION)
    linear_num_key_heads: Count = 16
    """Heads of queries and keys of a gated delta net."""
    linear_num_value_heads: Count = 32
    """Heads of its values. A multiple of `linearNumKeyHeads`."""
    linear_key_head_dim: Width = 128
    """Features of its queries and keys."""
    linear_value_head_dim: Width = 128
    """Features of its values."""
    linear_conv_kernel_dim: Annotated[int, Field(ge=1, le=64)] = 4
    """Positions of its convolutions."""
    layer_types: MixerTypes | None = optional(f"{decoder.LAYER_TYPES_DESCRIPTION} Default: the pattern of the family.")

    num_experts: Annotated[int, Field(ge=0, le=4096)] = 128
    """Experts of a layer. 0, only of qwen3Next: every layer has an MLP."""
    moe_intermediate_size: Width = 512
    """Width of an expert."""
    shared_expert_intermediate_size: Width = 512
    """Width of the MLP that every token goes through beside them."""
    fused_projections: bool = False
    """Whether files of Hugging Face have the projections of a gated delta net fused by head, as those of Qwen3-Next do.
    Changes only export."""

    published: ClassVar = "Qwen3-Next 80B-A3B; Qwen 3.5, 0.8B to 397B-A17B (text)"
    rules: ClassVar = (
        *ExpertsSection.rules,
        decoder.EVEN_ROTATION,
        decoder.ONE_TYPE_A_LAYER,
        Rule(
            "self.linearNumValueHeads % self.linearNumKeyHeads == 0",
            "linearNumKeyHeads must divide linearNumValueHeads",
            ".linearNumKeyHeads",
            shows("linearNumKeyHeads", "linearNumValueHeads"),
        ),
        Rule(
            "self.numExperts == 0 || self.numExpertsPerTok <= self.numExperts",
            "numExpertsPerTok must be at most numExperts",
            ".numExpertsPerTok",
            shows("numExpertsPerTok", "numExperts"),
        ),
    )

    def layer_type(self, layer: int) -> str:
        """See `DecoderSection.layer_type`."""
        return "linear_attention" if (layer + 1) % _PATTERN else "full_attention"

    def experts(self) -> ExpertSizes:
        """See `ExpertsSection.experts`."""
        return dataclasses.replace(
            super().experts(),
            shared=self.shared_expert_intermediate_size,
            shared_gate=True,
            shared_field="sharedExpertIntermediateSize",
        )

    def without_further(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ExpertSizes.shape`. What mixes positions is counted here.

        With width d, H query heads and K key and value heads of h features, attention has d h (3 H + 2 K) weights of
        products, with its gate, and 2 h of norms. With A key heads of a features and B value heads of b features, a
        gated delta net has 2 d (A a + B b + B) + d B b weights of products, c (2 A a + B b) of convolutions over c
        positions, 2 B of decays and b of a norm. A token multiplies 3 B a b times with the states.
        """
        del positions
        width, head, heads, shared = self.hidden_size, self.head_size, self.num_attention_heads, self.key_value_heads
        attention = width * head * (3 * heads + 2 * shared)
        biases = self.attention_bias * (2 * head * (heads + shared) + width)
        keys, values = (
            self.linear_num_key_heads * self.linear_key_head_dim,
            self.linear_num_value_heads * self.linear_value_head_dim,
        )
        linear = 2 * width * (keys + values + self.linear_num_value_heads) + values * width
        linear_rest = (
            self.linear_conv_kernel_dim * (2 * keys + values)
            + 2 * self.linear_num_value_heads
            + self.linear_value_head_dim
        )
        layers, linear_layers = self.num_hidden_layers, self.layers_by_type.count("linear_attention")
        full_layers, table = layers - linear_layers, vocabulary * width
        full_block, linear_block = attention + biases + 2 * head, linear + linear_rest
        mixers = full_layers * full_block + linear_layers * linear_block
        largest = max(full_block if full_layers else 0, linear_block if linear_layers else 0)
        products = full_layers * attention + linear_layers * linear
        bare = ModelShape(
            width=width,
            blocks=layers,
            parameters=mixers + layers * 2 * width + width + (1 if self.tie_word_embeddings else 2) * table,
            block_parameters=largest + 2 * width,
            product_weights=products + table,
            attention_width=2 * full_layers * heads * head,
            splits=(
                Split("parameters", "hiddenSize", width),
                *((Split("heads", "numKeyValueHeads", shared),) if full_layers else ()),
                *((Split("heads", "linearNumKeyHeads", self.linear_num_key_heads),) if linear_layers else ()),
            ),
            state_products=linear_layers * _STATE_PRODUCTS * self.linear_key_head_dim * values,
        )
        return self.experts().shape(self.sizes(), bare, vocabulary, 0)
