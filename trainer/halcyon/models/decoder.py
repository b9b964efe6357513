"""The decoder that most families are: norms, rotary positions, grouped-query attention and a gated MLP in every block.

A family's file says in a `Design` what its decoder is like; `Decoder` builds and computes it. All blocks have parameters of one form. Their
kinds, a window and a rotation each, decide how a block attends.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.block_kinds import BlockKind, masks_and_rotations
from halcyon.models.cache import Cache, Layers, Memory, PositionState
from halcyon.models.design import DecoderAxes, Design, self_attention
from halcyon.models.elementwise import elementwise
from halcyon.models.model import Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.mlp import GatedMlp
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.plain_mlp import PlainMlp, Xielu
from halcyon.models.parts.rotary import RotaryTable
from halcyon.models.parts.self_attention import InitLinear, SelfAttention
from halcyon.models.stack import Stack
from halcyon.models.token_decoder import TokenDecoder


class DecoderBlock(eqx.Module):
    """Attention and MLP, each added to the residual stream. A norm that a family lacks is None."""

    attention_norm: RmsNorm | None
    attention: SelfAttention
    attention_post_norm: RmsNorm | None
    mlp_norm: RmsNorm | None
    mlp: GatedMlp | PlainMlp
    mlp_post_norm: RmsNorm | None

    @staticmethod
    def init(design: Design, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> DecoderBlock:
        """All blocks at once: every parameter has the axis ``layers`` in front."""
        sizes, at = design.sizes, DecoderAxes.of(design.sizes)
        norm = functools.partial(design.norm, dtype=dtype, stacked=(at.layers,))
        linear = functools.partial(design.linear, layers=at.layers, dtype=dtype, keys=keys)
        before, after = design.placement != "after", design.placement != "before"
        attention = self_attention(design, at.layers, dtype, keys)
        return DecoderBlock(
            attention_norm=norm(at.embed) if before else None,
            attention=attention,
            attention_post_norm=norm(at.embed) if after else None,
            mlp_norm=norm(at.embed) if before else None,
            mlp=_mlp(design, functools.partial(linear, bias=sizes.mlp_bias), dtype),
            mlp_post_norm=norm(at.embed) if after else None,
        )

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable, memory: Memory | None = None) -> NamedArray:
        """(..., position, embed) to the same axes."""
        x = x + _normed(self.attention_post_norm, self.attention(_normed(self.attention_norm, x), mask, rotary, memory=memory))
        return divided(x + _normed(self.mlp_post_norm, self.mlp(_normed(self.mlp_norm, x))))


def _mlp(design: Design, linear: InitLinear, dtype: jnp.dtype) -> GatedMlp | PlainMlp:
    at = DecoderAxes.of(design.sizes)
    if design.learned_activation:
        return PlainMlp.init(at.embed, at.mlp, linear, Xielu.init((at.layers,), dtype))
    return (GatedMlp if design.sizes.gated else PlainMlp).init(at.embed, at.mlp, linear, design.activation)


def _normed(norm: RmsNorm | None, x: NamedArray) -> NamedArray:
    return x if norm is None else norm(x)


class Decoder(TokenDecoder):
    """A decoder of a `Design`. A family is a subclass without fields of its own."""

    embedding: Embedding
    blocks: Stack[DecoderBlock]
    norm: RmsNorm
    untied_head: Linear | None
    design: Design = eqx.field(static=True)

    @classmethod
    def of(cls, design: Design, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases 0, factors of norms 1."""
        at = DecoderAxes.of(design.sizes)
        keys = iter(jax.random.split(key, 9))
        return cls(
            embedding=design.embedding(vocab, dtype, keys),
            blocks=Stack(at.layers, DecoderBlock.init(design, dtype, keys=keys)),
            norm=design.norm(at.embed, dtype),
            untied_head=design.untied_head(vocab, dtype, keys),
            vocab=vocab,
            max_position=max_position,
            embed=at.embed,
            design=design,
        )

    @property
    def kept(self) -> tuple[PositionState, ...]:
        """See `TokenDecoder.kept`."""
        features = self.blocks.stacked.attention.kept
        return tuple(PositionState(features, kind.window) for kind in self.design.kinds)

    def __call__(self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """See `TokenDecoder.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        kinds, head_size = self.design.kinds, DecoderAxes.of(self.design.sizes).head_size
        attended = masks_and_rotations(kinds, inputs, self._position_axis(inputs.tokens), head_size)

        def step(kind: BlockKind, block: DecoderBlock, x: NamedArray) -> NamedArray:
            return block(x, *attended[kind])

        x = self._embedded(inputs.tokens, jnp.dtype(compute_dtype))
        if cache is not None:

            def remembering(kind: BlockKind, block: DecoderBlock, carry: tuple[NamedArray, Layers]) -> tuple[NamedArray, Layers]:
                memory = Memory(cache, carry[1], kind.window)
                return block(carry[0], *attended[kind], memory), memory.layers

            x, layers = self.blocks.scan_kinds(kinds, remembering, (x, Layers.of(cache)))
            return Outputs(self.norm(x), layers.closed(cache, inputs.tokens))
        return Outputs(self.norm(self.blocks.scan_kinds(kinds, step, x)))

    def _embedded(self, tokens: NamedArray, dtype: jnp.dtype) -> NamedArray:
        x, scale = self.embedding(tokens, dtype), self.design.embedding_scale
        return x if scale is None else elementwise(lambda x: x * jnp.asarray(scale, x.dtype), x)

    @property
    def logit_cap(self) -> float | None:
        """See `CausalLM.logit_cap`."""
        return self.design.logit_cap
