"""GPT-2 (Radford et al. 2019): LayerNorm before each part, learned positions, biases everywhere, GELU, tied embeddings."""

from __future__ import annotations

import functools
import math
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
from halcyon.models.parts.linear import Embedding, LayerNorm, Linear, add_wide
from halcyon.models.stack import Stack
from halcyon.parallel import axes
from halcyon_api.spec.model import Gpt2Spec


@dataclass(frozen=True)
class Gpt2Axes:
    """The axes of one GPT-2."""

    embed: Axis
    heads: Axis
    head_size: Axis
    mlp: Axis
    layers: Axis

    @staticmethod
    def of(spec: Gpt2Spec) -> Gpt2Axes:
        """The axes that a spec describes."""
        return Gpt2Axes(
            embed=Axis(axes.EMBED, spec.hidden_size),
            heads=Axis(axes.HEADS, spec.heads),
            head_size=Axis(axes.HEAD_SIZE, spec.hidden_size // spec.heads),
            mlp=Axis(axes.MLP, spec.mlp_size),
            layers=Axis(axes.LAYERS, spec.layers),
        )


def _residual_std(spec: Gpt2Spec) -> float:
    """Of projections into the residual stream: smaller with depth, so that its variance does not grow (section 2.3 of the paper)."""
    return spec.initializer_std / math.sqrt(2 * spec.layers)


InitLinear = Callable[[tuple[Axis, ...], tuple[Axis, ...]], Linear]
"""Makes a linear map from its inputs and outputs."""


class Gpt2Attention(eqx.Module):
    """Multi-head attention."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    head_size: Axis = eqx.field(static=True)

    @staticmethod
    def init(at: Gpt2Axes, linear: InitLinear, into_stream: InitLinear) -> Gpt2Attention:
        """Biases everywhere."""
        heads = (at.heads, at.head_size)
        return Gpt2Attention(
            query=linear((at.embed,), heads),
            key=linear((at.embed,), heads),
            value=linear((at.embed,), heads),
            output=into_stream(heads, (at.embed,)),
            head_size=at.head_size,
        )

    def __call__(self, x: NamedArray, segment_ids: NamedArray | None) -> NamedArray:
        """(..., position, embed) to the same."""
        position = x.resolve_axis(axes.POSITION)
        key_position = position.alias(axes.KEY_POSITION)
        attended = causal_attention(
            self.query(x),
            self.key(x).rename({position: key_position}),
            self.value(x).rename({position: key_position}),
            position=position,
            key_position=key_position,
            head_size=self.head_size,
            segment_ids=segment_ids,
        )
        return self.output(attended)


class Gpt2Block(eqx.Module):
    """Attention and MLP, each added to the residual stream."""

    attention_norm: LayerNorm
    attention: Gpt2Attention
    mlp_norm: LayerNorm
    mlp_up: Linear
    mlp_down: Linear

    @staticmethod
    def init(spec: Gpt2Spec, dtype: jnp.dtype, *, keys: Iterator[PRNGKeyArray]) -> Gpt2Block:
        """All blocks: every parameter has the axis ``layers`` in front."""
        at = Gpt2Axes.of(spec)
        norm = functools.partial(LayerNorm.init, at.embed, stacked=(at.layers,), epsilon=spec.norm_epsilon, dtype=dtype)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], std: float = spec.initializer_std) -> Linear:
            return Linear.init(inputs, outputs, stacked=(at.layers,), std=std, dtype=dtype, bias=True, key=next(keys))

        into_stream = functools.partial(linear, std=_residual_std(spec))
        return Gpt2Block(
            attention_norm=norm(),
            attention=Gpt2Attention.init(at, linear, into_stream),
            mlp_norm=norm(),
            mlp_up=linear((at.embed,), (at.mlp,)),
            mlp_down=into_stream((at.mlp,), (at.embed,)),
        )

    def __call__(self, x: NamedArray, segment_ids: NamedArray | None) -> NamedArray:
        """(..., position, embed) to the same."""
        x = x + self.attention(self.attention_norm(x), segment_ids)
        hidden = elementwise(recomputed(jax.nn.gelu), self.mlp_up(self.mlp_norm(x)))  # the tanh form, as in the published model
        return hax.auto_sharded(x + self.mlp_down(hidden))


class Gpt2(CausalLM):
    """A GPT-2 decoder."""

    embedding: Embedding
    positions: Embedding
    blocks: Stack[Gpt2Block]
    norm: LayerNorm
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)

    @staticmethod
    def init(spec: Gpt2Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Gpt2:
        """Random parameters: normal with `initializer_std`, smaller where a block writes to the residual stream; biases 0, norms 1."""
        at = Gpt2Axes.of(spec)
        std = spec.initializer_std
        keys = iter(jax.random.split(key, 8))
        return Gpt2(
            embedding=Embedding.init(vocab, at.embed, std=std, dtype=dtype, key=next(keys)),
            positions=Embedding.init(max_position, at.embed, std=std, dtype=dtype, key=next(keys)),
            blocks=Stack(at.layers, spec.remat, Gpt2Block.init(spec, dtype, keys=keys)),
            norm=LayerNorm.init(at.embed, epsilon=spec.norm_epsilon, dtype=dtype),
            vocab=vocab,
            max_position=max_position,
            embed=at.embed,
        )

    def features(self, tokens: NamedArray, *, segment_ids: NamedArray | None = None, compute_dtype: jnp.dtype) -> NamedArray:
        """(..., position) tokens to (..., position, embed)."""
        position = self._position_axis(tokens)
        learned = self.positions.weight.slice(self.max_position, position)
        x = hax.auto_sharded(add_wide(self.embedding(tokens, compute_dtype), learned))
        x = self.blocks.fold(lambda block, x: block(x, segment_ids), x)
        return self.norm(x)

    @property
    def head(self) -> NamedArray:
        """(vocab, embed)."""
        return self.embedding.weight
