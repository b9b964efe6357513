"""nanochat (Karpathy 2025, `github.com/karpathy/nanochat <https://github.com/karpathy/nanochat>`_), as of July 2026.

Norms have no weights. Each block scales the residual stream and adds the first embedding to it. Every other block adds
a value embedding to the values of its attention. Embeddings are smeared. Before the last norm, a part of the stream in
the middle of the model is subtracted (*backout*).

The original rotates by the negative angle, which exchanges the two features of a pair. So the queries and keys of its
published weights must exchange the two halves of each head; then both compute the same scores. It also norms queries
and keys after the rotation; a rotation does not change a norm.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.axes import elementwise, recomputed
from halcyon.models.cache import Cache, FixedState, Layers, Memory, PositionState
from halcyon.models.decoder import TokenDecoder
from halcyon.models.design import BlockKind, masks_and_rotations
from halcyon.models.dropout import WithSites
from halcyon.models.families.family import Family
from halcyon.models.mixed_stacks import scan_stacks
from halcyon.models.model import Inputs, Outputs
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding, Smear, ValueEmbedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.mlp import Mlp
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import Rope, RotaryTable
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.parts.weight import uniform
from halcyon.models.stack import Stack
from halcyon_api.spec.families.nanochat import (
    LOGIT_CAP,
    NORM_EPSILON,
    SCORE_SCALE,
    SMEAR_CHANNELS,
    VALUE_GATE_CHANNELS,
    NanochatSpec,
)

Form = Literal["plain_blocks", "valued_blocks"]
"""The field with the blocks of one form: those without and those with a value embedding."""

EMBEDDING_STD, HEAD_STD = 0.8, 0.001
_UP_FACTOR = 0.4
_GATE_BOUND = 0.02
_RESIDUAL, _EMBEDDING = (1.15, 1.05), (0.20, 0.05)
"""The factors of the first and of the last block; those between lie on a line."""
_BACKOUT = 0.2


class NanochatBlock(WithSites):
    """Attention and MLP, each added to the residual stream.

    Attributes:
        residual_factor: Factor of the residual stream.
        embedding_factor: Factor of the first embedding, which is added to the stream.
        values: The value embedding; None in every other block.
    """

    attention_norm: RmsNorm
    attention: SelfAttention
    mlp_norm: RmsNorm
    mlp: Mlp
    values: ValueEmbedding | None
    residual_factor: NamedArray = parameter(Role.BIAS)
    embedding_factor: NamedArray = parameter(Role.BIAS)

    def __call__(
        self,
        x: NamedArray,
        first: NamedArray,
        tokens: NamedArray,
        mask: Mask,
        rotary: RotaryTable,
        memory: Memory | None = None,
    ) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream.
            first: The first embedding, with the axes of `x`.
            tokens: (..., position) integers.
            mask: The keys that a query sees.
            rotary: The rotation of queries and keys.
            memory: Keys and values of earlier positions. None: only those of `x`.
        """
        x = elementwise(recomputed(_combined), x, first, self.residual_factor, self.embedding_factor)
        normal = self.attention_norm(x)
        added = None if self.values is None else self.values(tokens, normal)
        x = x + self.at_site(0, self.attention(normal, mask, rotary, memory=memory, added=added))
        return divided(x + self.at_site(1, self.mlp(self.mlp_norm(x))))


def _combined(x: jax.Array, other: jax.Array, of_x: jax.Array, of_other: jax.Array) -> jax.Array:
    """``of_x x + of_other other`` in float32, in the type of `x`."""
    wide = x.astype(jnp.float32) * of_x.astype(jnp.float32) + other.astype(jnp.float32) * of_other.astype(jnp.float32)
    return wide.astype(x.dtype)


class Nanochat(TokenDecoder):
    """A nanochat decoder."""

    embedding: Embedding
    smear: Smear
    plain_blocks: Stack[NanochatBlock] | None
    """The blocks without a value embedding, in order. None: the model has one block."""
    valued_blocks: Stack[NanochatBlock]
    """The blocks with a value embedding, in order."""
    untied_head: Linear | None
    norm: RmsNorm
    """Of embeddings, and of the features for the head; it has no weights."""
    kinds: tuple[tuple[Form, BlockKind], ...] = eqx.field(static=True)
    backout: NamedArray = parameter(Role.BIAS)
    """The part of the stream after block ``depth // 2``, counted from 0, that is subtracted."""

    @staticmethod
    def init(spec: NanochatSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Nanochat:
        """Random parameters: projections into the residual stream begin as 0, other maps of blocks are uniform, tables
        and head normal.
        """
        embed = Axis(axes.EMBED, spec.width)
        rope = Rope(spec.rope_theta)
        kinds: list[tuple[Form, BlockKind]] = [
            ("valued_blocks" if valued else "plain_blocks", BlockKind(rope, window))
            for valued, window in zip(spec.with_values, spec.windows, strict=True)
        ]
        of_tables, of_plain, of_valued = jax.random.split(key, 3)
        tables = iter(jax.random.split(of_tables, 3))

        gate = Axis(axes.SMEAR_GATE, SMEAR_CHANNELS)
        return Nanochat(
            embedding=Embedding.init(vocab, embed, std=EMBEDDING_STD, dtype=dtype, key=next(tables)),
            smear=Smear(
                Linear(
                    (gate,),
                    Role.MATRIX,
                    uniform(next(tables), (gate,), (Axis(axes.SMEARED, 1),), within=(0.0, _GATE_BOUND), dtype=dtype),
                    None,
                ),
                hax.zeros((), dtype=dtype),
            ),
            plain_blocks=_blocks(spec, False, vocab, dtype, of_plain) if spec.depth > 1 else None,
            valued_blocks=_blocks(spec, True, vocab, dtype, of_valued),
            backout=hax.full((), _BACKOUT, dtype=dtype),
            untied_head=Linear.init((embed,), (vocab,), std=HEAD_STD, dtype=dtype, role=Role.HEAD, key=next(tables)),
            norm=_norm(embed),
            kinds=tuple(kinds),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
        )

    @property
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """See `TokenDecoder.kept`. Before the blocks, the smear keeps one embedding of each row."""
        features = self.valued_blocks.stacked.attention.kept
        return (
            FixedState((((self.embed.size,), False),)),
            *(PositionState(features, kind.window) for _, kind in self.kinds),
        )

    @property
    def logit_cap(self) -> float | None:
        """See `CausalLM.logit_cap`."""
        return LOGIT_CAP

    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `KeepsCache.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        tokens, head_size = inputs.tokens, self.valued_blocks.stacked.attention.head_size
        attended = masks_and_rotations([kind for _, kind in self.kinds], inputs, self._position_axis(tokens), head_size)
        stacks: dict[str, Any] = {form: getattr(self, form) for form in dict.fromkeys(form for form, _ in self.kinds)}
        middle = len(self.kinds) // 2 + 1
        first = self.norm(self.embedding(tokens, jnp.dtype(compute_dtype)))

        before = None if cache is None else Memory(cache, Layers.of(cache), fixed=True)
        first = self.smear(first, inputs.segments, memory=before)
        first = self.at_site(0, divided(first) if before is None else first)

        def step(kind: BlockKind, block: NanochatBlock, carry: tuple[NamedArray, Layers | None]) -> tuple[Any, None]:
            x, layers = carry
            memory = None if cache is None or layers is None else Memory(cache, layers, kind.window)
            x = block(x, first, tokens, *attended[kind], memory)
            return (x, None if memory is None else memory.layers), None

        start = first, None if before is None else before.layers
        half, _ = scan_stacks(stacks, self.kinds[:middle], step, start)
        done = [form for form, _ in self.kinds[:middle]]
        (x, layers), _ = scan_stacks(stacks, self.kinds[middle:], step, half, after=done)
        return Outputs(self._features(half[0], x), None if cache is None else layers.closed(cache, tokens))

    def _features(self, half: NamedArray, x: NamedArray) -> NamedArray:
        def without(x: jax.Array, half: jax.Array, part: jax.Array) -> jax.Array:
            return (x.astype(jnp.float32) - part.astype(jnp.float32) * half.astype(jnp.float32)).astype(x.dtype)

        return self.norm(elementwise(recomputed(without), x, half, self.backout))


def _blocks(spec: NanochatSpec, valued: bool, vocab: Axis, dtype: jnp.dtype, key: PRNGKeyArray) -> Stack[NanochatBlock]:
    """The blocks of one form."""
    numbers = [number for number, one in enumerate(spec.with_values) if one == valued]
    keys = iter(jax.random.split(key, 6))
    layers, embed = Axis(axes.LAYERS, len(numbers)), Axis(axes.EMBED, spec.width)
    heads, head_size = Axis(axes.KV_HEADS, spec.key_value_heads), Axis(axes.HEAD_SIZE, spec.head_dim)
    bound = math.sqrt(3 / spec.width)  # the uniform distribution with the standard deviation 1 / sqrt(width)

    def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], *, factor: float = 1.0) -> Linear:
        within = (-bound * factor, bound * factor)
        return Linear(
            inputs, Role.MATRIX, uniform(next(keys), (layers,), inputs, outputs, within=within, dtype=dtype), None
        )

    def zero(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...]) -> Linear:
        return Linear(inputs, Role.MATRIX, hax.zeros((layers, *inputs, *outputs), dtype=dtype), None)

    def on_line(ends: tuple[float, float]) -> NamedArray:
        first, last = ends
        share = np.asarray(numbers, np.float32) / max(spec.depth - 1, 1)
        return hax.named(jnp.asarray(first + (last - first) * share, dtype), (layers,))

    shared = (heads, head_size)
    every = (heads, Axis(axes.Q_HEADS_PER_GROUP, spec.heads // heads.size), head_size)
    attention = SelfAttention(
        query=linear((embed,), every),
        key=linear((embed,), shared),
        value=linear((embed,), shared),
        output=zero(every, (embed,)),
        head_size=head_size,
        query_norm=_norm(head_size),
        key_norm=_norm(head_size),
        scale=SCORE_SCALE / math.sqrt(spec.head_dim),
    )
    mlp = Axis(axes.MLP, 4 * spec.width)
    values = None
    if valued:
        gate, features = Axis(axes.VALUE_GATE, VALUE_GATE_CHANNELS), Axis(axes.EMBED, heads.size * head_size.size)
        table = uniform(next(keys), (layers,), (vocab,), (features,), within=(-bound, bound), dtype=dtype)
        gates = uniform(next(keys), (layers,), (gate,), (heads,), within=(0.0, _GATE_BOUND), dtype=dtype)
        values = ValueEmbedding(Embedding(vocab, table), Linear((gate,), Role.MATRIX, gates, None), head_size)
    block = NanochatBlock(
        residual_factor=on_line(_RESIDUAL),
        embedding_factor=on_line(_EMBEDDING),
        attention_norm=_norm(embed),
        attention=attention,
        mlp_norm=_norm(embed),
        mlp=Mlp(None, linear((embed,), (mlp,), factor=_UP_FACTOR), zero((mlp,), (embed,)), None, "relu2"),
        values=values,
    )
    return Stack(layers, block)


def _norm(over: Axis) -> RmsNorm:
    return RmsNorm((over,), NORM_EPSILON, None)


NANOCHAT = Family(NanochatSpec, Nanochat.init)
"""It has no form of Hugging Face."""
