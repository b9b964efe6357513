"""The families ``gemma``, ``gemma2`` and ``gemma3``: the models of Gemma."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from halcyon_api.base import ApiModel, Rule, optional
from halcyon_api.spec.families.decoder import BiasedSection, PatternedSection
from halcyon_api.spec.families.section import AttentionNeeds, Count, DecoderSizes, HiddenAct, Width
from halcyon_api.spec.model_shape import COLOURS, ImageShape, ModelShape, Split

_LOGITS_DESCRIPTION = "Smooth limit of the logits: limit * tanh(logit / limit). 0: no limit."


class GemmaSpec(BiasedSection):
    """A Gemma decoder (Gemma Team 2024a): norms with a factor of 1 + weight, scaled embeddings, GeGLU, tied
    embeddings.
    """

    family: Literal["gemma"] = "gemma"
    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""
    hidden_act: HiddenAct = "gelu_pytorch_tanh"

    published: ClassVar = "Gemma 2B and 7B"
    rules: ClassVar = (
        *BiasedSection.rules,
        Rule(
            "self.hiddenAct != 'gelu'",
            "gemma has no exact gelu, because readers of its files take gelu for gelu_pytorch_tanh; set "
            "gelu_pytorch_tanh",
            ".hiddenAct",
        ),
    )


class WindowedGemmaSection(PatternedSection):
    """What the families of Gemma with windows share."""

    tie_word_embeddings: bool = True
    """Use the token embedding as the output head."""
    hidden_act: HiddenAct = "gelu_pytorch_tanh"
    query_pre_attn_scalar: PositiveFloat | None = None
    """Scores of attention are divided by its square root. Default: the features of a head."""


class Gemma2Spec(WindowedGemmaSection):
    """A Gemma 2 decoder (Gemma Team 2024b): a Gemma with norms around each part, soft caps, and a window in every
    other layer.
    """

    family: Literal["gemma2"] = "gemma2"
    attn_logit_softcapping: NonNegativeFloat = 50.0
    """Smooth limit of the scores: limit * tanh(score / limit). 0: no limit."""
    final_logit_softcapping: float = Field(default=30.0, ge=0, description=_LOGITS_DESCRIPTION)

    published: ClassVar = "Gemma 2, 2B to 27B"
    pattern: ClassVar = 2

    @property
    def attention_needs(self) -> AttentionNeeds:
        """See `ModelSection.attention_needs`."""
        return AttentionNeeds(self.head_size, self.head_size, soft_cap=self.attn_logit_softcapping > 0)

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4)


POOLED = 4
"""Patches of a side of what becomes one token."""


class VisionSpec(ApiModel):
    """SigLIP, an encoder of square images (Zhai et al. 2023). The defaults are those of Gemma 3."""

    num_hidden_layers: Count = 27
    """Blocks."""
    num_attention_heads: Count = 16
    """Heads."""
    head_dim: Count = 72
    """Features of a head."""
    intermediate_size: Width = 4304
    """Width of the MLP."""
    patch_size: Count = 14
    """Pixels of a patch's side, of which a token has 4."""
    tokens_per_side: Count = 16
    """Tokens of an image's side."""
    image_token_index: Annotated[int, Field(ge=0, le=16_777_216)] = 262_144
    """Id of these tokens."""
    images: Annotated[int, Field(ge=1, le=64)] = 1
    """Most images of a sequence."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.head_dim

    @property
    def image_size(self) -> int:
        """Pixels of a side of an image."""
        return self.tokens_per_side * POOLED * self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.tokens_per_side**2

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.tokens * POOLED**2

    @property
    def sight(self) -> ImageShape:
        """See `ModelSection.sight`."""
        return ImageShape(self.image_size, self.tokens, self.images, self.image_token_index)

    def added(self, shape: ModelShape, positions: int) -> ModelShape:
        """The shape of a text model with this encoder: a token has the share of one in `positions` of the work for
        the images of a sequence."""
        width, mlp, patches = self.hidden_size, self.intermediate_size, self.patches
        products, first = 4 * width**2 + 2 * width * mlp, COLOURS * self.patch_size**2 * width
        block, last, layers = products + 9 * width + mlp, width * shape.width, self.num_hidden_layers
        work = patches * (first + layers * (products + 2 * width * patches)) + self.tokens * last
        return dataclasses.replace(
            shape,
            blocks=shape.blocks + layers,
            parameters=shape.parameters + layers * block + first + last + (4 + patches) * width,
            block_parameters=max(shape.block_parameters, block),
            product_weights=shape.product_weights + -(-self.images * work // max(1, positions)),
            splits=(
                *shape.splits,
                Split("parameters", "vision.headDim", width),
                Split("features", "vision.intermediateSize", mlp),
                Split("heads", "vision.numAttentionHeads", self.num_attention_heads),
            ),
        )


class Gemma3Spec(WindowedGemmaSection):
    """A Gemma 3 (Gemma Team 2025): a Gemma 2 with norms of queries and keys, five windows for each full layer, and
    perhaps images.
    """

    family: Literal["gemma3"] = "gemma3"
    rope_theta: PositiveFloat = 1_000_000.0
    """Base of the rotary frequencies."""
    rope_local_base_freq: PositiveFloat = 10_000.0
    """Base of the rotary frequencies of windowed layers."""
    final_logit_softcapping: float = Field(default=0.0, ge=0, description=_LOGITS_DESCRIPTION)

    vision: VisionSpec | None = optional("Its encoder of images. Not set: text alone.")

    published: ClassVar = "Gemma 3, 270M to 27B"
    pattern: ClassVar = 6

    @property
    def sight(self) -> ImageShape | None:
        """See `ModelSection.sight`."""
        return None if self.vision is None else self.vision.sight

    def shape(self, vocabulary: int, positions: int) -> ModelShape:
        """See `DecoderSection.shape`."""
        found = super().shape(vocabulary, positions)
        return found if self.vision is None else self.vision.added(found, positions)

    def sizes(self) -> DecoderSizes:
        """See `DecoderSection.sizes`."""
        return dataclasses.replace(super().sizes(), block_norms=4, query_norm="head")
