"""The family ``gpt2``: GPT-2, and what the families with a similar decoder share."""

import dataclasses
from typing import ClassVar, Literal

from pydantic import PositiveFloat

from halcyon_api.base import Rule, shows
from halcyon_api.spec.families.section import Count, DecoderSizes, HiddenAct, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape

WHOLE_HEADS = Rule(
    "self.hiddenSize % self.numAttentionHeads == 0",
    "hiddenSize must be a multiple of numAttentionHeads",
    ".hiddenSize",
    shows("hiddenSize", "numAttentionHeads"),
)


class LearnedPositionsSection(ModelSection):
    """A decoder with LayerNorm, learned positions, an MLP without a gate, and biases."""

    num_hidden_layers: Count = 12
    """Transformer blocks."""
    hidden_size: Width = 768
    """Width of the residual stream."""
    intermediate_size: Width | None = None
    """Width of the MLP. Default: four times `hiddenSize`."""
    layer_norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in LayerNorm."""
    hidden_act: HiddenAct = "gelu_new"
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the normal initialisation."""

    @property
    def mlp_size(self) -> int:
        """Width of the MLP, with the default filled in."""
        return self.intermediate_size or 4 * self.hidden_size

    def sizes(self) -> DecoderSizes:
        """The sizes of the model, but those of its attention."""
        return DecoderSizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            mlp=self.mlp_size,
            heads=1,
            key_value_heads=1,
            head_size=0,
            tied=getattr(self, "tie_word_embeddings", True),
            mlp_bias=True,
            gated=False,
            norm_bias=True,
            learned_positions=True,
            heads_field="numAttentionHeads",
        )

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `DecoderSizes.shape`, which has the formula."""
        return self.sizes().shape(vocabulary, positions)


class Gpt2Section(LearnedPositionsSection):
    """A decoder whose blocks are those of GPT-2."""

    num_attention_heads: Count = 12
    """Query heads."""
    scale_attn_weights: bool = True
    """Divide the scores of attention by the square root of a head's features."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide the scores of attention by the layer's number, counted from 1."""

    rules: ClassVar = (WHOLE_HEADS,)

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_attention_heads

    def sizes(self) -> DecoderSizes:
        """The sizes of the model."""
        heads = self.num_attention_heads
        return dataclasses.replace(
            super().sizes(),
            heads=heads,
            key_value_heads=heads,
            head_size=self.head_size,
            query_bias=True,
            output_bias=True,
        )


class Gpt2Spec(Gpt2Section):
    """A GPT-2 decoder (Radford et al. 2019): LayerNorm, learned positions, GELU, tied embeddings."""

    family: Literal["gpt2"] = "gpt2"
    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""

    published: ClassVar = "GPT-2 124M to 1.5B"
