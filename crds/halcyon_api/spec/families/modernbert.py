"""The family ``modernBert``: ModernBERT."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from halcyon_api.spec.families.gpt2 import WHOLE_HEADS
from halcyon_api.spec.families.section import Count, DecoderSizes, Labels, ModelSection, Width
from halcyon_api.spec.model_shape import ModelShape

FULL_EVERY = 3
"""The distance of layers that see everything."""


class ModernBertSpec(ModelSection):
    """A ModernBERT encoder (Warner et al. 2024): attention to both sides, two windows for each full layer, LayerNorm,
    GeGLU, and a head that fills in masked tokens.
    """

    family: Literal["modernBert"] = "modernBert"
    num_hidden_layers: Count = 22
    """Transformer blocks."""
    hidden_size: Width = 768
    """Width of the residual stream."""
    intermediate_size: Width = 1152
    """Width of the MLP."""
    num_attention_heads: Count = 12
    """Query heads."""
    local_attention: Annotated[int, Field(ge=2, le=16_777_216)] = 128
    """Positions beside its own that a window has, half on each side."""
    rope_theta: PositiveFloat = 160_000.0
    """Base of the rotary frequencies."""
    rope_local_base_freq: PositiveFloat = 10_000.0
    """Base of the rotary frequencies of windowed layers."""
    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the normal initialisation."""

    labels: Labels | None = None
    """Names of classes: a head for them takes the place of the output head, for `objective.classify`."""
    classifier_pooling: Literal["cls", "mean"] = "cls"
    """What classes are told by: the first token, or the mean of all."""

    published: ClassVar = "ModernBERT base and large"
    encoder: ClassVar = True
    rules: ClassVar = (WHOLE_HEADS,)

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def layers_by_type(self) -> tuple[str, ...]:
        """The attention of each layer: every third one, from the first on, sees everything."""
        return tuple(
            "sliding_attention" if layer % FULL_EVERY else "full_attention" for layer in range(self.num_hidden_layers)
        )

    def sizes(self) -> DecoderSizes:
        """The sizes of its blocks."""
        return DecoderSizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            mlp=self.intermediate_size,
            heads=self.num_attention_heads,
            key_value_heads=self.num_attention_heads,
            head_size=self.head_size,
            tied=self.tie_word_embeddings or self.labels is not None,
            windowed_layers=self.layers_by_type.count("sliding_attention"),
            window=2 * (self.local_attention // 2) + 1,
            heads_field="numAttentionHeads",
        )

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `ModelSection.shape`.

        Beside the blocks: the norm of embeddings, in the place of that of the first block, and a head of one square
        matrix, a norm, and a bias for each token.
        """
        found, square = self.sizes().shape(vocabulary, positions), self.hidden_size**2
        found = dataclasses.replace(
            found,
            parameters=found.parameters + square + self.hidden_size + (self.labels is None) * vocabulary,
            product_weights=found.product_weights + square,
        )
        return self.classifying(found, vocabulary, self.hidden_size)
