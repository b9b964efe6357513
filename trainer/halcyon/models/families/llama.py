"""Llama (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import Role
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, causal
from halcyon.models.parts.mlp import SwiGlu
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotary_table
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.stack import Stack
from halcyon_api.spec.families.llama import LlamaSpec


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


class LlamaBlock(eqx.Module):
    """Attention and MLP, each added to the residual stream."""

    attention_norm: RmsNorm
    attention: SelfAttention
    mlp_norm: RmsNorm
    mlp: SwiGlu

    @staticmethod
    def init(spec: LlamaSpec, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> LlamaBlock:
        """All blocks at once: every parameter has the axis ``layers`` in front."""
        at = LlamaAxes.of(spec)
        norm = functools.partial(RmsNorm.init, at.embed, stacked=(at.layers,), epsilon=spec.norm_epsilon, dtype=dtype)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...]) -> Linear:
            return Linear.init(inputs, outputs, stacked=(at.layers,), std=spec.initializer_std, dtype=dtype, key=next(keys))

        return LlamaBlock(
            attention_norm=norm(),
            attention=SelfAttention.init(at.embed, (at.kv_heads,), (at.queries,), at.head_size, linear, linear),
            mlp_norm=norm(),
            mlp=SwiGlu.init(at.embed, at.mlp, linear),
        )

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable) -> NamedArray:
        """(..., position, embed) to the same axes."""
        x = x + self.attention(self.attention_norm(x), mask, rotary)
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
            untied_head=None
            if spec.tie_embeddings
            else Linear.init((at.embed,), (vocab,), std=std, dtype=dtype, role=Role.HEAD, key=next(keys)),
            vocab=vocab,
            max_position=max_position,
            embed=at.embed,
            head_size=at.head_size,
            rope_theta=spec.rope_theta,
        )

    def __call__(self, inputs: Inputs, *, compute_dtype: jnp.dtype | type | str = jnp.float32) -> Outputs:
        """See `CausalLM.__call__`."""
        mask = causal(inputs.segments)
        rotary = rotary_table(self._position_axis(inputs.tokens), self.head_size, self.rope_theta, inputs.positions)

        def step(block: LlamaBlock, x: NamedArray, _: Any) -> tuple[NamedArray, None]:
            return block(x, mask, rotary), None

        x, _ = self.blocks.scan(step, self.embedding(inputs.tokens, jnp.dtype(compute_dtype)))
        return Outputs(self.norm(x))

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
