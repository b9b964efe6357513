"""``spec.model.llama``: Llama."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.section import HEADS_DIVIDE_WIDTH, REMAT_DESCRIPTION, Count, ModelSection, Remat, Width
from halcyon_api.spec.model_shape import ModelShape, Split


class LlamaSpec(ModelSection):
    """A Llama decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: Count = Field(default=12, description="Transformer blocks.")
    hidden_size: Width = Field(default=768, description="Width of the residual stream. A multiple of `heads`.")
    intermediate_size: Width = Field(default=2048, description="Width of the SwiGLU MLP.")
    heads: Count = Field(default=12, description="Query heads.")
    kv_heads: Count | None = Field(default=None, description="Key and value heads; must divide `heads`. Default: `heads`.")
    rope_theta: float = Field(default=10_000.0, gt=0, description="Base of the rotary position frequencies.")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    initializer_std: float = Field(default=0.02, gt=0, description="Standard deviation of the normal initialisation.")
    tie_embeddings: bool = Field(default=False, description="Use the token embedding as the output head.")
    remat: Remat = Field(default="none", description=REMAT_DESCRIPTION)

    rules: ClassVar = (
        HEADS_DIVIDE_WIDTH,
        Rule(
            "!has(self.kvHeads) || self.heads % self.kvHeads == 0",
            lambda self: self.heads % self.key_value_heads == 0,
            "kvHeads must divide heads",
            ".kvHeads",
            shows("kvHeads", "heads"),
        ),
        Rule(
            "(self.hiddenSize / self.heads) % 2 == 0",
            lambda self: self.hidden_size // self.heads % 2 == 0,
            "hiddenSize / heads must be even, because rotary positions rotate pairs of features",
            ".hiddenSize",
            shows("hiddenSize", "heads"),
        ),
    )

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`. Rotary positions have no parameters."""
        width, mlp = self.hidden_size, self.intermediate_size
        products = 2 * width * width + 2 * width * (width // self.heads * self.key_value_heads) + 3 * width * mlp
        block = products + 2 * width  # two norms
        tables = 1 if self.tie_embeddings else 2
        return ModelShape(
            width=width,
            blocks=self.layers,
            parameters=self.layers * block + width + tables * vocabulary * width,
            block_parameters=block,
            product_weights=self.layers * products + vocabulary * width,
            attention_width=self.layers * width,
            splits=(
                Split("parameters", "hiddenSize", width),
                Split("features", "intermediateSize", mlp),
                Split("heads", "kvHeads", self.key_value_heads),
            ),
        )
