"""Llama (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU.

The blocks are one module whose parameters have a leading axis ``layers``, and the forward pass scans over it. Grouped queries are those of
Ainslie et al. 2023, the gated MLP that of Shazeer 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.model import CausalLM
from halcyon.models.parts.attention import causal_attention
from halcyon.models.parts.linear import Embedding, Linear, RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotary_table, rotate
from halcyon.models.stack import Stack
from halcyon.parallel import axes
from halcyon_api.spec.model import LlamaSpec


@dataclass(frozen=True)
class LlamaAxes:
    """The axes of one Llama."""

    embed: Axis
    kv_heads: Axis
    queries: Axis
    """Query heads that share one key and value head."""
    head_size: Axis
    mlp: Axis
    layers: Axis

    @staticmethod
    def of(spec: LlamaSpec) -> LlamaAxes:
        """The axes that a spec describes."""
        return LlamaAxes(
            embed=Axis(axes.EMBED, spec.hidden_size),
            kv_heads=Axis(axes.KV_HEADS, spec.key_value_heads),
            queries=Axis(axes.Q_HEADS_PER_GROUP, spec.heads // spec.key_value_heads),
            head_size=Axis(axes.HEAD_SIZE, spec.hidden_size // spec.heads),
            mlp=Axis(axes.MLP, spec.intermediate_size),
            layers=Axis(axes.LAYERS, spec.layers),
        )


InitLinear = Callable[[tuple[Axis, ...], tuple[Axis, ...]], Linear]
"""Makes a linear map from its inputs and outputs."""


class LlamaAttention(eqx.Module):
    """Grouped-query attention with rotary positions."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    head_size: Axis = eqx.field(static=True)

    @staticmethod
    def init(at: LlamaAxes, linear: InitLinear) -> LlamaAttention:
        """No biases."""
        heads, shared = (at.kv_heads, at.queries, at.head_size), (at.kv_heads, at.head_size)
        return LlamaAttention(
            query=linear((at.embed,), heads),
            key=linear((at.embed,), shared),
            value=linear((at.embed,), shared),
            output=linear(heads, (at.embed,)),
            head_size=at.head_size,
        )

    def __call__(self, x: NamedArray, rotary: RotaryTable, segment_ids: NamedArray | None) -> NamedArray:
        """(..., position, embed) to the same."""
        position = x.resolve_axis(axes.POSITION)
        key_position = position.alias(axes.KEY_POSITION)
        query = rotate(self.query(x), rotary, self.head_size)
        key = rotate(self.key(x), rotary, self.head_size).rename({position: key_position})
        value = self.value(x).rename({position: key_position})
        attended = causal_attention(
            query, key, value, position=position, key_position=key_position, head_size=self.head_size, segment_ids=segment_ids
        )
        return self.output(attended)


class SwiGlu(eqx.Module):
    """``down(silu(gate(x)) * up(x))``."""

    gate: Linear
    up: Linear
    down: Linear

    @staticmethod
    def init(at: LlamaAxes, linear: InitLinear) -> SwiGlu:
        """No biases."""
        return SwiGlu(
            gate=linear((at.embed,), (at.mlp,)),
            up=linear((at.embed,), (at.mlp,)),
            down=linear((at.mlp,), (at.embed,)),
        )

    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., embed) to the same."""
        return self.down(elementwise(recomputed(lambda gate, up: jax.nn.silu(gate) * up), self.gate(x), self.up(x)))


class LlamaBlock(eqx.Module):
    """Attention and MLP, each added to the residual stream."""

    attention_norm: RmsNorm
    attention: LlamaAttention
    mlp_norm: RmsNorm
    mlp: SwiGlu

    @staticmethod
    def init(spec: LlamaSpec, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> LlamaBlock:
        """All blocks: every parameter has the axis ``layers`` in front."""
        at = LlamaAxes.of(spec)
        norm = functools.partial(RmsNorm.init, at.embed, stacked=(at.layers,), epsilon=spec.norm_epsilon, dtype=dtype)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...]) -> Linear:
            return Linear.init(inputs, outputs, stacked=(at.layers,), std=spec.initializer_std, dtype=dtype, key=next(keys))

        return LlamaBlock(attention_norm=norm(), attention=LlamaAttention.init(at, linear), mlp_norm=norm(), mlp=SwiGlu.init(at, linear))

    def __call__(self, x: NamedArray, rotary: RotaryTable, segment_ids: NamedArray | None) -> NamedArray:
        """(..., position, embed) to the same."""
        x = x + self.attention(self.attention_norm(x), rotary, segment_ids)
        return hax.auto_sharded(x + self.mlp(self.mlp_norm(x)))


class Llama(CausalLM):
    """A Llama decoder."""

    embedding: Embedding
    blocks: Stack[LlamaBlock]
    norm: RmsNorm
    untied_head: Linear | None
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    head_size: Axis = eqx.field(static=True)
    rope_theta: float = eqx.field(static=True)

    @staticmethod
    def init(spec: LlamaSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Llama:
        """Random parameters: normal with `initializer_std`; norms 1."""
        at = LlamaAxes.of(spec)
        std = spec.initializer_std
        keys = iter(jax.random.split(key, 9))
        return Llama(
            embedding=Embedding.init(vocab, at.embed, std=std, dtype=dtype, key=next(keys)),
            blocks=Stack(at.layers, spec.remat, LlamaBlock.init(spec, dtype, keys=keys)),
            norm=RmsNorm.init(at.embed, epsilon=spec.norm_epsilon, dtype=dtype),
            untied_head=None if spec.tie_embeddings else Linear.init((at.embed,), (vocab,), std=std, dtype=dtype, key=next(keys)),
            vocab=vocab,
            max_position=max_position,
            embed=at.embed,
            head_size=at.head_size,
            rope_theta=spec.rope_theta,
        )

    def features(self, tokens: NamedArray, *, segment_ids: NamedArray | None = None, compute_dtype: jnp.dtype) -> NamedArray:
        """(..., position) tokens to (..., position, embed)."""
        rotary = rotary_table(self._position_axis(tokens), self.head_size, self.rope_theta)
        x = self.embedding(tokens, compute_dtype)
        x = self.blocks.fold(lambda block, x: block(x, rotary, segment_ids), x)
        return self.norm(x)

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) where tied, (embed, vocab) where not."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
