"""``spec.model``: the architecture. Parameter names follow the papers; sizes are counts of features unless said otherwise."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from halcyon_api.base import ApiModel, OneOf, cel

Remat = Literal["none", "full"]
Width = Annotated[int, Field(ge=1, le=1_048_576)]
Count = Annotated[int, Field(ge=1, le=4096)]

_REMAT = "What the backward pass recomputes: `none` keeps all activations, `full` keeps one carry a block and recomputes its inside."


class LlamaSpec(ApiModel):
    """A Llama decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: Count = Field(default=12, description="Transformer blocks.")
    hidden_size: Width = Field(default=768, description="Width of the residual stream. A multiple of `heads`.")
    intermediate_size: Width = Field(default=2048, description="Width of the SwiGLU MLP.")
    heads: Count = Field(default=12, description="Query heads.")
    kv_heads: Count | None = Field(default=None, description="Key and value heads; divides `heads`. Default: as many as `heads`.")
    rope_theta: float = Field(default=10_000.0, gt=0, description="Base of the rotary position frequencies.")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="Added to the mean square in RMSNorm.")
    initializer_std: float = Field(default=0.02, gt=0, description="Standard deviation of the normal initialisation.")
    tie_embeddings: bool = Field(default=False, description="Use the token embedding as the output head.")
    remat: Remat = Field(default="none", description=_REMAT)

    cel_rules: ClassVar = (
        cel("self.hiddenSize % self.heads == 0", "hiddenSize must be a multiple of heads", field_path=".hiddenSize"),
        cel("!has(self.kvHeads) || self.heads % self.kvHeads == 0", "kvHeads must divide heads", field_path=".kvHeads"),
        cel(
            "(self.hiddenSize / self.heads) % 2 == 0",
            "hiddenSize / heads must be even, for rotary positions turn pairs of features",
            field_path=".hiddenSize",
        ),
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hiddenSize {self.hidden_size} must be a multiple of heads {self.heads}")
        if self.heads % self.key_value_heads:
            raise ValueError(f"kvHeads {self.key_value_heads} must divide heads {self.heads}")
        if self.hidden_size // self.heads % 2:
            raise ValueError("hiddenSize / heads must be even, for rotary positions turn pairs of features")
        return self

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, the default filled in."""
        return self.kv_heads if self.kv_heads is not None else self.heads


class Gpt2Spec(ApiModel):
    """A GPT-2 decoder (Radford et al. 2019): LayerNorm, learned positions, GELU, tied embeddings."""

    layers: Count = Field(default=12, description="Transformer blocks.")
    hidden_size: Width = Field(default=768, description="Width of the residual stream. A multiple of `heads`.")
    intermediate_size: Width | None = Field(default=None, description="Width of the MLP. Default: four times `hiddenSize`.")
    heads: Count = Field(default=12, description="Attention heads.")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="Added to the variance in LayerNorm.")
    initializer_std: float = Field(default=0.02, gt=0, description="Standard deviation of the normal initialisation.")
    remat: Remat = Field(default="none", description=_REMAT)

    cel_rules: ClassVar = (cel("self.hiddenSize % self.heads == 0", "hiddenSize must be a multiple of heads", field_path=".hiddenSize"),)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hiddenSize {self.hidden_size} must be a multiple of heads {self.heads}")
        return self

    @property
    def mlp_size(self) -> int:
        """Width of the MLP, the default filled in."""
        return self.intermediate_size if self.intermediate_size is not None else 4 * self.hidden_size


class ModelSpec(OneOf):
    """The architecture: exactly one member."""

    llama: LlamaSpec | None = Field(default=None, description="A Llama decoder.")
    gpt2: Gpt2Spec | None = Field(default=None, description="A GPT-2 decoder.")
