"""Encoders of images in front of decoders: SigLIP of Gemma 3, and the encoder of Qwen 2.5-VL."""

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from halcyon_api.base import ApiModel
from halcyon_api.spec.families.section import Count, Width
from halcyon_api.spec.model_shape import COLOURS, ImageShape, ModelShape, Split


class VisionSpec(ApiModel):
    """An encoder of square images. The defaults are those of Gemma 3 (SigLIP, Zhai et al. 2023) or Qwen 2.5-VL."""

    num_hidden_layers: Count = 27
    """Blocks."""
    num_attention_heads: Count = 16
    """Heads."""
    head_dim: Count = 72
    """Features of a head."""
    intermediate_size: Width = 4304
    """Width of the MLP."""
    patch_size: Count = 14
    """Pixels of a patch's side. A side of a token has 4 patches, with qwen2 2."""
    tokens_per_side: Count = 16
    """Tokens of an image's side."""
    image_token_index: Annotated[int, Field(ge=0, le=16_777_216)] = 262_144
    """Id of these tokens."""
    images: Annotated[int, Field(ge=1, le=64)] = 1
    """Most images of a sequence."""

    pooled: ClassVar = 4
    """Patches of a side of what becomes one token."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.head_dim

    @property
    def image_size(self) -> int:
        """Pixels of a side of an image."""
        return self.tokens_per_side * self.pooled * self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.tokens_per_side**2

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.tokens * self.pooled**2

    @property
    def sight(self) -> ImageShape:
        """See `ModelSection.sight`."""
        return ImageShape(self.image_size, self.tokens, self.images, self.image_token_index)

    def _weights(self, width: int) -> tuple[int, int, int, int, int]:
        """Weights of products of a block and its other parameters, weights of products of a patch before the blocks and
        of a token after them, and the other parameters; `width` are the features of the decoder."""
        own, mlp = self.hidden_size, self.intermediate_size
        first, last = COLOURS * self.patch_size**2 * own, own * width
        return 4 * own**2 + 2 * own * mlp, 9 * own + mlp, first, last, (4 + self.patches) * own

    def added(self, shape: ModelShape, positions: int) -> ModelShape:
        """The shape of a text model with this encoder: a token has the share of one in `positions` of the work for
        the images of a sequence."""
        width, patches, layers = self.hidden_size, self.patches, self.num_hidden_layers
        products, others, first, last, rest = self._weights(shape.width)
        work = patches * (first + layers * (products + 2 * width * patches)) + self.tokens * last
        return dataclasses.replace(
            shape,
            blocks=shape.blocks + layers,
            parameters=shape.parameters + layers * (products + others) + first + last + rest,
            block_parameters=max(shape.block_parameters, products + others),
            product_weights=shape.product_weights + -(-self.images * work // max(1, positions)),
            splits=(
                *shape.splits,
                Split("parameters", "vision.headDim", width),
                Split("features", "vision.intermediateSize", self.intermediate_size),
                Split("heads", "vision.numAttentionHeads", self.num_attention_heads),
            ),
        )


FRAMES = 2
"""Frames that a patch of Qwen 2.5-VL has: those of an image are equal."""


class QwenVisionSpec(VisionSpec):
    """An encoder of square images. The defaults are those of Gemma 3 (SigLIP, Zhai et al. 2023) or Qwen 2.5-VL."""

    num_hidden_layers: Count = 32
    """Blocks."""
    head_dim: Count = 80
    """Features of a head."""
    intermediate_size: Width = 3420
    """Width of the MLP."""
    image_token_index: Annotated[int, Field(ge=0, le=16_777_216)] = 151_655
    """Id of these tokens."""

    pooled: ClassVar = 2

    @property
    def sight(self) -> ImageShape:
        """See `ModelSection.sight`."""
        name = "<|image_pad|>"
        side = self.tokens_per_side
        found = super().sight
        return dataclasses.replace(found, printed=name, token=name, before="", after="", positions=side, cubic=True)

    @property
    def whole(self) -> tuple[bool, ...]:
        """For each block, whether it sees the whole image, as the last one of each quarter; the others see windows of
        four tokens a side."""
        layers = self.num_hidden_layers
        return tuple((number + 1) % max(1, layers // 4) == 0 for number in range(layers))

    def _weights(self, width: int) -> tuple[int, int, int, int, int]:
        own, mlp = self.hidden_size, self.intermediate_size
        first, last = COLOURS * FRAMES * self.patch_size**2 * own, 16 * own**2 + 4 * own * width
        return 4 * own**2 + 3 * own * mlp, 7 * own + 2 * mlp, first, last, 5 * own + width
