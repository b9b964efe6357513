"""``spec.model.llama``: Llama."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.rope import RopeScaling
from halcyon_api.spec.families.section import AttentionNeeds, Count, DecoderSizes, HiddenAct, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape


class LlamaSpec(ModelSection):
    """A Llama decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: Count = 12
    """Transformer blocks."""
    hidden_size: Width = 768
    """Width of the residual stream."""
    intermediate_size: Width = 2048
    """Width of the SwiGLU MLP."""
    heads: Count = 12
    """Query heads."""
    kv_heads: Count | None = None
    """Key and value heads; must divide `heads`. Default: `heads`."""
    head_dim: Width | None = None
    """Features of a head. Default: `hiddenSize` / `heads`."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary position frequencies."""
    rope_scaling: RopeScaling | None = None
    """Change of the rotary frequencies for longer texts."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    hidden_act: HiddenAct = "silu"
    attention_bias: bool = False
    """Biases of all four projections of attention."""
    mlp_bias: bool = False
    """Biases of the MLP's three projections."""
    initializer_std: PositiveFloat = 0.02
    """Standard deviation of the normal initialisation."""
    tie_embeddings: bool = False
    """Use the token embedding as the output head."""

    published: ClassVar = "Llama 2, 3, 3.1, 3.2 (text), 3.3"
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
