"""``spec.model``: the architecture. Parameter names follow the papers; sizes are numbers of features unless stated otherwise."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf, Rule, shows
from halcyon_api.spec.model_shape import ModelShape, Split

Remat = Literal["none", "full"]
"""A remat policy: what the forward pass keeps for the backward pass."""

REMAT: dict[Remat, str] = {
    "none": "keeps all activations",
    "full": "keeps the input of each block and recomputes the rest",
}
"""What each remat policy keeps."""

Width = Annotated[int, Field(ge=1, le=1_048_576)]
Count = Annotated[int, Field(ge=1, le=4096)]

_REMAT = f"Remat policy: {', '.join(f'`{name}` {kept}' for name, kept in REMAT.items())}."


_HEADS_DIVIDE = Rule(
    "self.hiddenSize % self.heads == 0",
    lambda self: self.hidden_size % self.heads == 0,
    "hiddenSize must be a multiple of heads",
    ".hiddenSize",
    shows("hiddenSize", "heads"),
)


class ModelSection(ApiModel):
    """The architecture of one model family. Other code uses `shape` instead of the fields of a family."""

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model.

        Args:
            vocabulary: Rows of the embedding, padding included.
            positions: Tokens of the longest sequence.
        """
        raise NotImplementedError


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
    remat: Remat = Field(default="none", description=_REMAT)

    rules: ClassVar = (
        _HEADS_DIVIDE,
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


class Gpt2Spec(ModelSection):
    """A GPT-2 decoder (Radford et al. 2019): LayerNorm, learned positions, GELU, tied embeddings."""

    layers: Count = Field(default=12, description="Transformer blocks.")
    hidden_size: Width = Field(default=768, description="Width of the residual stream. A multiple of `heads`.")
    intermediate_size: Width | None = Field(default=None, description="Width of the MLP. Default: four times `hiddenSize`.")
    heads: Count = Field(default=12, description="Attention heads.")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="Added to the variance in LayerNorm.")
    initializer_std: float = Field(default=0.02, gt=0, description="Standard deviation of the normal initialisation.")
    remat: Remat = Field(default="none", description=_REMAT)

    rules: ClassVar = (_HEADS_DIVIDE,)

    @property
    def mlp_size(self) -> int:
        """Width of the MLP, with the default filled in."""
        return self.intermediate_size if self.intermediate_size is not None else 4 * self.hidden_size

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`. Products and norms have biases; the embedding is the output head."""
        width, mlp = self.hidden_size, self.mlp_size
        products = 4 * width * width + 2 * width * mlp
        biases, norms = 5 * width + mlp, 2 * (2 * width)
        block = products + biases + norms
        return ModelShape(
            width=width,
            blocks=self.layers,
            parameters=self.layers * block + 2 * width + (vocabulary + positions) * width,
            block_parameters=block,
            product_weights=self.layers * products + vocabulary * width,
            attention_width=self.layers * width,
            splits=(
                Split("parameters", "hiddenSize", width),
                Split("features", "intermediateSize", mlp),
                Split("heads", "heads", self.heads),
            ),
        )


class ModelSpec(OneOf):
    """The architecture: exactly one member."""

    llama: LlamaSpec | None = Field(default=None, description="A Llama decoder.")
    gpt2: Gpt2Spec | None = Field(default=None, description="A GPT-2 decoder.")

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """The size of the model; see `ModelSection.shape`."""
        return cast("ModelSection", self.value).shape(vocabulary, positions)
