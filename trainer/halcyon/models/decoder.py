"""The decoder that most families are: norms, rotary positions, grouped-query attention and a gated MLP in every block.

A family's file says in a `Design` what its decoder is like; `Decoder` builds and computes it. All blocks have parameters of one form. Their
kinds, a window and a rotation each, decide how a block attends.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.elementwise import elementwise
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import Role
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, Window, causal
from halcyon.models.parts.mlp import GatedMlp
from halcyon.models.parts.norm import RmsNorm, Scaling
from halcyon.models.parts.plain_mlp import PlainMlp, Xielu
from halcyon.models.parts.rotary import Rope, RotaryTable, rotary_table
from halcyon.models.parts.self_attention import InitLinear, SelfAttention
from halcyon.models.stack import Stack
from halcyon_api.spec.families.section import Activation
from halcyon_api.spec.families.sizes import DecoderSizes


@dataclass(frozen=True)
class BlockKind:
    """How a block attends.

    Attributes:
        rope: The rotation of queries and keys.
        window: Positions that a query sees, its own included. None: all earlier ones.
    """

    rope: Rope
    window: int | None = None


@dataclass(frozen=True)
class Design:
    """What a family's decoder is like.

    Attributes:
        sizes: The sizes, and which biases and norms it has.
        kinds: The kind of each block.
        epsilon: Added to the mean square in norms.
        std: Standard deviation of the normal initialisation.
        scaling: How norms apply their weights.
        placement: Where a block has norms: before attention and MLP, after them (inside the residual branch), or both.
        activation: The activation function of the MLP.
        learned_activation: Whether it is xIELU instead, which has parameters. The MLP then has no gate.
        score_scale: Factor of the scores. None: 1 / sqrt(features of a head).
        score_cap: Smooth limit of the scores. None: no limit.
        logit_cap: Smooth limit of the logits. None: no limit.
        embedding_scale: Factor of embeddings, rounded to the compute type. None: 1.
    """

    sizes: DecoderSizes
    kinds: tuple[BlockKind, ...]
    epsilon: float
    std: float
    scaling: Scaling = "rounded"
    placement: Literal["before", "after", "both"] = "before"
    activation: Activation = "silu"
    learned_activation: bool = False
    score_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float | None = None


@dataclass(frozen=True)
class DecoderAxes:
    """The axes of one decoder."""

    embed: Axis
    kv_heads: Axis
    queries: Axis
    """Query heads that share one key and value head."""
    head_size: Axis
    mlp: Axis
    layers: Axis

    @staticmethod
    def of(sizes: DecoderSizes) -> DecoderAxes:
        """The axes of these sizes."""
        return DecoderAxes(
            embed=Axis(axes.EMBED, sizes.width),
            kv_heads=Axis(axes.KV_HEADS, sizes.key_value_heads),
            queries=Axis(axes.Q_HEADS_PER_GROUP, sizes.heads // sizes.key_value_heads),
            head_size=Axis(axes.HEAD_SIZE, sizes.head_size),
            mlp=Axis(axes.MLP, sizes.mlp),
            layers=Axis(axes.LAYERS, sizes.layers),
        )


def self_attention(design: Design, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray], *, gated: bool = False) -> SelfAttention:
    """The self-attention that a design describes, with or without a gate: every parameter has the axis ``layers`` in front."""
    sizes, at = design.sizes, DecoderAxes.of(design.sizes)

    def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], bias: bool) -> Linear:
        return Linear.init(inputs, outputs, stacked=(layers,), std=design.std, dtype=dtype, bias=bias, key=next(keys))

    norm = functools.partial(RmsNorm.init, stacked=(layers,), epsilon=design.epsilon, dtype=dtype, scaling=design.scaling)
    return SelfAttention.init(
        at.embed,
        (at.kv_heads,),
        (at.queries,),
        at.head_size,
        functools.partial(linear, bias=sizes.query_bias),
        functools.partial(linear, bias=sizes.output_bias),
        norm=norm if sizes.query_norm else None,
        norm_of=sizes.query_norm or "head",
        sinks=hax.zeros((layers, at.kv_heads, at.queries), dtype=dtype) if sizes.sinks else None,
        scale=design.score_scale,
        soft_cap=design.score_cap,
        gated=gated,
    )


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
        norm = functools.partial(RmsNorm.init, stacked=(at.layers,), epsilon=design.epsilon, dtype=dtype, scaling=design.scaling)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], bias: bool) -> Linear:
            return Linear.init(inputs, outputs, stacked=(at.layers,), std=design.std, dtype=dtype, bias=bias, key=next(keys))

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

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable) -> NamedArray:
        """(..., position, embed) to the same axes."""
        x = x + _normed(self.attention_post_norm, self.attention(_normed(self.attention_norm, x), mask, rotary))
        return divided(x + _normed(self.mlp_post_norm, self.mlp(_normed(self.mlp_norm, x))))


def _mlp(design: Design, linear: InitLinear, dtype: jnp.dtype) -> GatedMlp | PlainMlp:
    at = DecoderAxes.of(design.sizes)
    if design.learned_activation:
        return PlainMlp.init(at.embed, at.mlp, linear, Xielu.init((at.layers,), dtype))
    return (GatedMlp if design.sizes.gated else PlainMlp).init(at.embed, at.mlp, linear, design.activation)


def _normed(norm: RmsNorm | None, x: NamedArray) -> NamedArray:
    return x if norm is None else norm(x)


class Decoder(CausalLM):
    """A decoder of a `Design`. A family is a subclass without fields of its own."""

    embedding: Embedding
    blocks: Stack[DecoderBlock]
    norm: RmsNorm
    untied_head: Linear | None
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    design: Design = eqx.field(static=True)

    @classmethod
    def of(cls, design: Design, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases 0, factors of norms 1."""
        at, std = DecoderAxes.of(design.sizes), design.std
        keys = iter(jax.random.split(key, 9))
        return cls(
            embedding=Embedding.init(vocab, at.embed, std=std, dtype=dtype, key=next(keys)),
            blocks=Stack(at.layers, DecoderBlock.init(design, dtype, keys=keys)),
            norm=RmsNorm.init(at.embed, epsilon=design.epsilon, dtype=dtype, scaling=design.scaling),
            untied_head=None
            if design.sizes.tied
            else Linear.init((at.embed,), (vocab,), std=std, dtype=dtype, role=Role.HEAD, key=next(keys)),
            vocab=vocab,
            max_position=max_position,
            embed=at.embed,
            design=design,
        )

    def __call__(self, inputs: Inputs, *, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """See `CausalLM.__call__`."""
        position, head_size = self._position_axis(inputs.tokens), DecoderAxes.of(self.design.sizes).head_size
        kinds = self.design.kinds
        everything = causal(inputs.segments)
        masks = {window: everything if window is None else everything & Window(window) for window in {kind.window: None for kind in kinds}}
        ropes = {rope: rotary_table(position, head_size, rope, inputs.positions) for rope in {kind.rope: None for kind in kinds}}

        def step(kind: BlockKind, block: DecoderBlock, x: NamedArray) -> NamedArray:
            return block(x, masks[kind.window], ropes[kind.rope])

        x = self._embedded(inputs.tokens, jnp.dtype(compute_dtype))
        return Outputs(self.norm(self.blocks.scan_kinds(kinds, step, x)))

    def _embedded(self, tokens: NamedArray, dtype: jnp.dtype) -> NamedArray:
        x, scale = self.embedding(tokens, dtype), self.design.embedding_scale
        return x if scale is None else elementwise(lambda x: x * jnp.asarray(scale, x.dtype), x)

    @property
    def logit_cap(self) -> float | None:
        """See `CausalLM.logit_cap`."""
        return self.design.logit_cap

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
