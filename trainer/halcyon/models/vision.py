"""An encoder of images in front of a decoder: SigLIP (Zhai et al. 2023, `arXiv 2303.15343
<https://arxiv.org/abs/2303.15343>`_), as Gemma 3 has it (Gemma Team 2025, section 2.1).

An image is a square of patches, each of which becomes one position of blocks that see all positions. The means over
squares of them, after a norm and a projection, stand in the place of the embeddings of the image's tokens. In the
decoder, a token of an image also sees the later tokens of the same image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.decoder import Block, Decoder
from halcyon.models.design import masks_and_rotations, plain_design
from halcyon.models.model import Inputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Until
from halcyon.models.parts.norm import LayerNorm, RmsNorm
from halcyon.models.parts.weight import add_wide, normal
from halcyon.models.stack import Stack
from halcyon_api.spec.families.vision import VisionSpec
from halcyon_api.spec.model_shape import COLOURS, ImageShape

EPSILON = 1e-6
_HALF = 127.5
"""Half of the brightest colour."""


class VisionTower(eqx.Module):
    """From the pixels of images to vectors in the place of embeddings."""

    patches: Linear
    blocks: Stack[Block]
    norm: LayerNorm
    pooled_norm: RmsNorm
    projection: Linear
    source: Axis = eqx.field(static=True)
    spec: VisionSpec = eqx.field(static=True)
    positions: NamedArray = parameter(Role.EMBEDDING, inputs="source")

    @staticmethod
    def init(spec: VisionSpec, std: float, width: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> VisionTower:
        """Random parameters, normal with this standard deviation; `width` are the features of the decoder."""
        sizes = spec.num_hidden_layers, spec.hidden_size, spec.num_attention_heads, spec.intermediate_size
        design = plain_design(*sizes, EPSILON, std, "gelu_pytorch_tanh")
        embed = design.axes.embed
        source, pooled = Axis(axes.SOURCE, spec.patches), embed.alias(axes.CHANNELS)
        return VisionTower(
            Linear.init(pixels_of(spec), (embed,), std=std, dtype=dtype, bias=True, key=next(keys)),
            Block.stack(design, spec.num_hidden_layers, dtype, keys),
            LayerNorm.init(embed, epsilon=EPSILON, dtype=dtype),
            RmsNorm.init(pooled, stacked=(), epsilon=EPSILON, dtype=dtype, scaling="offset"),
            Linear.init((pooled,), (width,), std=std, dtype=dtype, key=next(keys)),
            source,
            spec,
            normal(next(keys), (source,), (embed,), std=std, dtype=dtype),
        )

    def __call__(self, images: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """(batch, image, row, column, colour) to (batch, position, embed): the tokens of all images of a row."""
        spec, rows, side = self.spec, images.array.shape[0], self.spec.pooled
        cut = patches_of((images.array.astype(jnp.float32) / _HALF - 1).astype(dtype), spec.patch_size)
        names = (axes.BATCH, axes.POSITION, *(axis.name for axis in self.patches.inputs))
        x = self.patches(divided(NamedArray(cut, names)))
        x = divided(add_wide(x, self.positions.rename({axes.SOURCE: axes.POSITION})))
        x, _ = self.blocks.scan(lambda block, x, _: (block(x, None, None)[0], None), x)
        squares = self.norm(x).array.reshape(rows, -1, side, spec.tokens_per_side, side, spec.hidden_size)
        pooled = jnp.mean(squares, (2, 4), jnp.float32).astype(dtype).reshape(rows, -1, spec.hidden_size)
        return self.projection(self.pooled_norm(NamedArray(pooled, (axes.BATCH, axes.POSITION, axes.CHANNELS))))


def pixels_of(spec: VisionSpec, *frames: Axis) -> tuple[Axis, ...]:
    """The axes of the pixels of a patch."""
    size = spec.patch_size
    return Axis(axes.COLOUR, COLOURS), *frames, Axis(axes.PATCH_ROW, size), Axis(axes.PATCH_COLUMN, size)


def patches_of(colours: jax.Array, patch: int) -> jax.Array:
    """[row, image, row of pixels, column, colour] to [image, patch, colour, row, column], in the order of reading."""
    side = colours.shape[2] // patch
    cut = colours.reshape(-1, side, patch, side, patch, COLOURS).transpose(0, 1, 3, 5, 2, 4)
    return cut.reshape(-1, side**2, *cut.shape[3:])


class SeeingDecoder(Decoder):
    """A decoder whose tokens may have images among them; `encoder` is its `VisionTower`, or a module with the same
    call and `spec`."""

    @property
    def sight(self) -> ImageShape:
        """See `CausalLM.sight`."""
        return self.encoder.spec.sight

    def _placed(self, inputs: Inputs, dtype: jnp.dtype) -> NamedArray:
        embedded = super()._placed(inputs, dtype)
        if inputs.images is None and inputs.seen is None:
            return embedded
        order = (axes.BATCH, axes.POSITION, axes.EMBED)
        among, is_image = embedded.rearrange(order).array, self._is_image(inputs.tokens)
        if inputs.images is None:
            taken = cast("NamedArray", inputs.seen).rearrange(order).array.astype(dtype)
        else:
            found = self.encoder(inputs.images, dtype).rearrange(order).array
            numbers = jnp.clip(jnp.cumsum(is_image, 1) - 1, 0, found.shape[1] - 1)
            taken = jnp.take_along_axis(found, numbers[:, :, None], 1)
        return divided(NamedArray(jnp.where(is_image[:, :, None], taken, among), order))

    def _attended(self, kinds: Any, inputs: Inputs) -> Any:
        if inputs.images is None:
            return super()._attended(kinds, inputs)
        until = Until(NamedArray(self.image_ends(inputs.tokens), (axes.BATCH, axes.POSITION)), self.encoder.spec.tokens)
        return masks_and_rotations(kinds, inputs, self._position_axis(inputs.tokens), self.design.axes.head_size, until)

    def image_ends(self, tokens: NamedArray) -> Any:
        """int32 [batch, position]: the last position of the image that a token belongs to, or its own."""
        is_image = self._is_image(tokens)
        length = is_image.shape[1]
        own = jnp.arange(length, dtype=jnp.int32)
        following = jax.lax.cummin(jnp.where(is_image, jnp.int32(length), own), 1, reverse=True)
        return jnp.where(is_image, following - 1, own)

    def _is_image(self, tokens: NamedArray) -> jax.Array:
        return tokens.rearrange((axes.BATCH, axes.POSITION)).array == self.encoder.spec.image_token_index
