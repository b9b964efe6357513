"""``spec.model.llama``: Llama."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.base import Rule, optional, shows
from halcyon_api.spec.families.rope import RopeScaling
from halcyon_api.spec.families.section import (
    ACTIVATION_DESCRIPTION,
    Activation,
    AttentionNeeds,
    Count,
    DecoderSizes,
    ModelSection,
    Width,
)
from halcyon_api.spec.model_shape import ModelShape


class LlamaSpec(ModelSection):
    """A Llama decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: Count = Field(default=12, description="Transformer blocks.")
    hidden_size: Width = Field(default=768, description="Width of the residual stream.")
    intermediate_size: Width = Field(default=2048, description="Width of the SwiGLU MLP.")
    heads: Count = Field(default=12, description="Query heads.")
    kv_heads: Count | None = optional("Key and value heads; must divide `heads`. Default: `heads`.")
    head_dim: Width | None = optional("Features of a head. Default: `hiddenSize` / `heads`.")
    rope_theta: float = Field(default=10_000.0, gt=0, description="Base of the rotary position frequencies.")
    rope_scaling: RopeScaling | None = optional("Change of the rotary frequencies for longer texts.")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    hidden_act: Activation = Field(default="silu", description=ACTIVATION_DESCRIPTION)
    attention_bias: bool = Field(default=False, description="Biases of all four projections of attention.")
    mlp_bias: bool = Field(default=False, description="Biases of the MLP's three projections.")
    initializer_std: float = Field(default=0.02, gt=0, description="Standard deviation of the normal initialisation.")
    tie_embeddings: bool = Field(default=False, description="Use the token embedding as the output head.")

    published: ClassVar[str] = "Llama 2, 3, 3.1, 3.2 (text), 3.3"
    rules: ClassVar = (
        Rule(
            "has(self.headDim) || self.hiddenSize % self.heads == 0",
            lambda self: self.head_dim is not None or self.hidden_size % self.heads == 0,
            "hiddenSize must be a multiple of heads",
            ".hiddenSize",
            shows("hiddenSize", "heads"),
        ),
        Rule(
            "!has(self.kvHeads) || self.heads % self.kvHeads == 0",
            lambda self: self.heads % self.key_value_heads == 0,
            "kvHeads must divide heads",
            ".kvHeads",
            shows("kvHeads", "heads"),
        ),
        Rule(
            "self.?headDim.orValue(self.hiddenSize / self.heads) % 2 == 0",
            lambda self: self.head_size % 2 == 0,
            "headDim, or hiddenSize / heads, must be even, because rotary positions rotate pairs of features",
            ".headDim",
            shows("hiddenSize", "heads", "headDim"),
        ),
    )

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def head_size(self) -> int:
        """Features of a head, with the default filled in."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.heads

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return AttentionNeeds(self.head_size, self.head_size)

    def sizes(self) -> DecoderSizes:
        """The sizes of the model."""
        return DecoderSizes(
            layers=self.layers,
            width=self.hidden_size,
            mlp=self.intermediate_size,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            head_size=self.head_size,
            tied=self.tie_embeddings,
            key_value_field="kvHeads",
            query_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `DecoderSizes.shape`, which has the formula."""
        return self.sizes().shape(vocabulary, positions)
