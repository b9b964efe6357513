"""The encoder of images of Qwen 2.5-VL (Bai et al. 2025, `arXiv 2502.13923 <https://arxiv.org/abs/2502.13923>`_), and
the positions of its decoder.

Each patch of a square image is a position of blocks with a rotation by its row and its column. Most blocks see only
windows, so the patches lie window after window, and the squares of patches that become one token one after the other.
An MLP makes each square the embedding of one token of the image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.decoder import Block, Decoder
from halcyon.models.design import BlockKind, plain_design
from halcyon.models.model import Inputs
from halcyon.models.partition import divided
from halcyon.models.parts import masks, mlp, rotary
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.stack import Stack
from halcyon.models.vision import EPSILON, SeeingDecoder, patches_of, pixels_of
from halcyon_api.spec.families.vision import FRAMES, QwenVisionSpec

WINDOW = 8
"""Patches of a window's side."""
_MEANS, _DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the three colours, from 0 to 1, in the images on which CLIP was trained (Radford et al. 2021)."""
ROTATION = rotary.Rope(10_000.0, numbers=2)


class PatchTower(eqx.Module):
    """From the pixels of images to vectors in the place of embeddings."""

    patches: Linear
    blocks: Stack[Block]
    norm: RmsNorm
    merger: mlp.Mlp
    spec: QwenVisionSpec = eqx.field(static=True)

    @staticmethod
    def init(
        spec: QwenVisionSpec, std: float, width: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]
    ) -> PatchTower:
        """Random parameters, normal with this standard deviation; `width` are the features of the decoder."""
        sizes = spec.num_hidden_layers, spec.hidden_size, spec.num_attention_heads, spec.intermediate_size
        plain = plain_design(*sizes, EPSILON, std, "silu")
        design = dataclasses.replace(plain, sizes=dataclasses.replace(plain.sizes, gated=True), layer_norms=False)
        embed, square = design.axes.embed, spec.pooled**2 * spec.hidden_size
        linear = functools.partial(Linear.init, std=std, dtype=dtype)
        joined, inner = Axis(axes.CHANNELS, square), Axis(axes.MLP, square)
        return PatchTower(
            linear(pixels_of(spec, Axis(axes.FRAME, FRAMES)), (embed,), key=next(keys)),
            Block.stack(design, spec.num_hidden_layers, dtype, keys),
            RmsNorm.init(embed, stacked=(), epsilon=EPSILON, dtype=dtype),
            mlp.Mlp(
                None,
                linear((joined,), (inner,), bias=True, key=next(keys)),
                linear((inner,), (width,), bias=True, key=next(keys)),
                None,
                "gelu",
            ),
            spec,
        )

    def __call__(self, images: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """(batch, image, row, column, colour) to (batch, position, embed): the tokens of all images of a row."""
        spec, rows, side = self.spec, images.array.shape[0], images.array.shape[2] // self.spec.patch_size
        places, windows, back = _order(side, spec.pooled)
        colours = (images.array.astype(jnp.float32) / 255 - jnp.asarray(_MEANS)) / jnp.asarray(_DEVIATIONS)
        cut = patches_of(colours.astype(dtype), spec.patch_size)[:, places[0] * side + places[1]]
        frames = jnp.broadcast_to(cut[:, :, :, None], (*cut.shape[:3], FRAMES, *cut.shape[3:]))
        names = (axes.BATCH, axes.POSITION, *(axis.name for axis in self.patches.inputs))
        x = self.patches(divided(NamedArray(frames, names)))
        of_windows = jnp.broadcast_to(jnp.asarray(windows), cut.shape[:2])
        mask, size = masks.Segments(NamedArray(of_windows, names[:2])), Axis(axes.HEAD_SIZE, spec.head_dim)
        pairs = hax.named(np.repeat(places.T, spec.head_dim // 4, 1), (axes.POSITION, axes.PAIR))
        table = rotary.rotary_table(pairs.resolve_axis(axes.POSITION), size, ROTATION, pairs)

        def step(whole: bool, block: Block, x: NamedArray) -> NamedArray:
            return block(x, None if whole else mask, table)[0]

        x = self.norm(self.blocks.scan_kinds(spec.whole, step, x))
        squares = x.rearrange((*names[:2], axes.EMBED)).array.reshape(len(cut), len(back), -1)[:, back]
        joined = squares.reshape(rows, -1, squares.shape[-1])
        return self.merger(divided(NamedArray(joined, (axes.BATCH, axes.POSITION, axes.CHANNELS))))


def _order(side: int, pooled: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of the patches of an image with this number of them a side: row and column of each, int [2, patch];
    its window, int [patch]; and the place of each token of the image, in the order of reading, in that order."""
    row, column = np.divmod(np.arange(side**2), side)
    levels = [part // size for size in (1, pooled, WINDOW) for part in (column, row)]
    places = np.stack((row, column))[:, np.lexsort(levels)]
    windows, (rows, columns) = places // WINDOW, places[:, :: pooled**2] // pooled
    return places, windows[0] * side + windows[1], np.argsort(rows * side + columns)


class PlacedDecoder(SeeingDecoder):
    """A decoder whose positions have three numbers, of which the second and the third count the rows and columns of an
    image (Wang et al. 2024, `arXiv 2409.12191 <https://arxiv.org/abs/2409.12191>`_, section 2.1); a text has the same
    number three times."""

    def _attended(self, kinds: Sequence[BlockKind], inputs: Inputs) -> Any:
        if inputs.images is None and inputs.seen is None:
            return Decoder._attended(self, kinds, inputs)
        parts = np.repeat(np.arange(3), sections(self.design.sizes.head_size))
        pairs = jnp.stack(self.places(inputs.tokens), -1)[..., parts]
        if inputs.positions is not None:
            pairs = pairs + inputs.positions.array[:, :1, None]
        return Decoder._attended(
            self, kinds, inputs._replace(positions=NamedArray(pairs, (axes.BATCH, axes.POSITION, axes.PAIR)))
        )

    def places(self, tokens: NamedArray) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The three numbers of the position of each token: int32 [batch, position]. An image of n rows takes n
        numbers."""
        spec, is_image = self.encoder.spec, self._is_image(tokens)
        before = jnp.cumsum(is_image, 1) - is_image
        inside = jnp.where(is_image, before % spec.tokens, 0)
        own = jnp.arange(is_image.shape[1], dtype=jnp.int32) - inside
        first = own - before // spec.tokens * (spec.tokens - spec.tokens_per_side)
        return first, first + inside // spec.tokens_per_side, first + inside % spec.tokens_per_side

    def image_ends(self, tokens: NamedArray) -> None:
        """None: a token of an image sees no later ones."""
        del tokens


def sections(head_size: int) -> tuple[int, int, int]:
    """The pairs of features of a head that each number of a position rotates, as in all published models."""
    third = 3 * head_size // 16
    return head_size // 2 - 2 * third, third, third
