"""What a decoder of a family is like, and how its parts are made from that.

Each of its blocks has a kind, and the blocks of one kind share a mask and a table of rotations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import EMBED, EXPERTS, HEAD_SIZE, HEADS, KV_HEADS, MLP, Q_HEADS_PER_GROUP, ROUTES
from halcyon.models.layer_kinds import LayerKind, layer_kinds, stack_names
from halcyon.models.model import Inputs
from halcyon.models.parameters import Role
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.experts import Experts, Gate
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, Until, Window, causal
from halcyon.models.parts.mlp import Mlp, Xielu
from halcyon.models.parts.moe import MixtureOfExperts, Router, RouterLosses
from halcyon.models.parts.norm import LayerNorm, RmsNorm, Scaling
from halcyon.models.parts.rotary import Rope, rotary_table
from halcyon.models.parts.routing import Routing
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.parts.weight import normal
from halcyon_api.spec.families.experts import ExpertSizes
from halcyon_api.spec.families.section import Activation, DecoderSizes


@dataclass(frozen=True)
class BlockKind:
    """How a block attends.

    Attributes:
        rope: The rotation of queries and keys. None: no rotation.
        window: Positions that a query sees, its own included. None: all earlier ones.
    """

    rope: Rope | None
    window: int | None = None


def masks_and_rotations(
    kinds: Sequence[BlockKind], inputs: Inputs, position: Axis, rotated: Axis, until: Until | None = None
) -> dict[BlockKind, tuple[Mask, Any]]:
    """The mask of each kind, and its table of rotations; None: it has none.

    Args:
        kinds: The kinds of the blocks.
        inputs: The inputs of the model, for positions and segments.
        position: The axis of the positions of the tokens.
        rotated: Features of a head that the rotations are for.
        until: In the place of the causal mask. None: that.
    """
    everything = causal(inputs.segments, until)
    masks = {
        window: everything if window is None else everything & Window(window)
        for window in {kind.window: None for kind in kinds}
    }
    ropes = {
        rope: None if rope is None else rotary_table(position, rotated, rope, inputs.positions)
        for rope in {kind.rope: None for kind in kinds}
    }
    return {kind: (masks[kind.window], ropes[kind.rope]) for kind in kinds}


@dataclass(frozen=True)
class DecoderAxes:
    """The axes of one decoder."""

    embed: Axis
    kv_heads: Axis
    queries: tuple[Axis, ...]
    """Query heads that share one key and value head; empty: each head of keys has one."""
    head_size: Axis
    mlp: Axis


@dataclass(frozen=True)
class LayersInit:
    """Makes the random parameters of all layers of one form at once: every one has the axis `layers` in front."""

    design: Design
    layers: Axis
    dtype: jnp.dtype
    keys: Iterator[PRNGKeyArray]

    def norm(self, over: Axis | tuple[Axis, ...]) -> Any:
        """See `Design.norm`."""
        return self.design.norm(over, self.dtype, stacked=(self.layers,))

    def linear(self, inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], bias: bool = False) -> Linear:
        """A random linear map of each layer: (layers, *inputs, *outputs)."""
        std, into_stream = self.design.std, self.design.std_into_stream
        if into_stream is not None and outputs == (self.design.axes.embed,):
            std = into_stream
        stacked, key = (self.layers,), next(self.keys)
        return Linear.init(inputs, outputs, stacked=stacked, std=std, dtype=self.dtype, bias=bias, key=key)


def self_attention(init: LayersInit, *, gated: bool = False) -> SelfAttention:
    """The self-attention that a design describes, with or without a gate."""
    design, sizes, at = init.design, init.design.sizes, init.design.axes
    embed, shared, heads = (at.embed,), (at.kv_heads, at.head_size), (at.kv_heads, *at.queries, at.head_size)
    linear, of_head = functools.partial(init.linear, bias=sizes.query_bias), sizes.query_norm == "head"
    return SelfAttention(
        query=linear(embed, heads),
        key=linear(embed, shared),
        value=linear(embed, shared),
        output=init.linear(heads, embed, sizes.output_bias),
        head_size=at.head_size,
        query_norm=init.norm((at.head_size,) if of_head else heads) if sizes.query_norm else None,
        key_norm=init.norm((at.head_size,) if of_head else shared) if sizes.query_norm else None,
        sinks=hax.zeros((init.layers, *heads[:-1]), dtype=init.dtype) if sizes.sinks else None,
        scale=design.score_scale,
        soft_cap=design.score_cap,
        gate=linear(embed, heads) if gated else None,
    )


def mlp_of(init: LayersInit, mlp: Axis) -> Mlp:
    """The MLP that a design describes, with this number of features."""
    design, embed = init.design, (init.design.axes.embed,)
    linear = functools.partial(init.linear, bias=design.sizes.mlp_bias)
    gate = linear(embed, (mlp,)) if design.sizes.gated else None
    learned = Xielu.init((init.layers,), init.dtype) if design.learned_activation else None
    return Mlp(gate, linear(embed, (mlp,)), linear((mlp,), embed), learned, design.activation)


@dataclass(frozen=True)
class FurtherLayers:
    """The layers of a decoder that predict further tokens."""

    count: int
    form: LayerKind
    kind: BlockKind


InitMixer = Callable[[LayersInit], Any]
"""Makes what mixes the positions in all layers of one form, such as `self_attention`."""


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
        attention: Makes the attention of layers. It is not compared: two loads of a model have equal designs.
        rotated: Features of a head that the rotations are for. None: all.
        mixture: The experts that some or all layers have in the place of the MLP. None: no layer has experts.
        recurrence: Makes what some layers have in the place of attention, a gated delta net. It is not compared.
        recurrent: For each layer, whether it has that. Empty: no layer has it.
        further: The layers that predict further tokens. None: there are none.
        layer_norms: Whether norms are layer norms.
        grouped: Whether query heads share heads of keys; otherwise there is one axis of heads.
        std_into_stream: Standard deviation of projections into the residual stream. None: `std`.
        by_layer: Whether the scores of a layer are divided by its number, counted from 1.
        encoder: Makes the encoder of a decoder with cross attention. None: there is none. It is not compared.
        cross: Makes the cross attention of layers. It is not compared.
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
    attention: InitMixer = field(default=self_attention, compare=False)
    rotated: Axis | None = None
    mixture: Mixture | None = None
    recurrence: InitMixer | None = field(default=None, compare=False)
    recurrent: tuple[bool, ...] = ()
    further: FurtherLayers | None = None
    layer_norms: bool = False
    grouped: bool = True
    std_into_stream: float | None = None
    by_layer: bool = False
    encoder: Callable[[jnp.dtype, Iterator[PRNGKeyArray]], Any] | None = field(default=None, compare=False)
    cross: InitMixer | None = field(default=None, compare=False)

    @property
    def axes(self) -> DecoderAxes:
        """The axes of its sizes."""
        sizes = self.sizes
        return DecoderAxes(
            embed=Axis(EMBED, sizes.width),
            kv_heads=Axis(KV_HEADS if self.grouped else HEADS, sizes.key_value_heads),
            queries=(Axis(Q_HEADS_PER_GROUP, sizes.heads // sizes.key_value_heads),) if self.grouped else (),
            head_size=Axis(HEAD_SIZE, sizes.head_size),
            mlp=Axis(MLP, sizes.mlp),
        )

    @property
    def forms(self) -> tuple[LayerKind, ...]:
        """The form of each layer."""
        return layer_kinds(
            len(self.kinds), self.recurrent, () if self.mixture is None else self.mixture.sizes.with_experts
        )

    @property
    def stacks(self) -> dict[LayerKind, str]:
        """See `halcyon.models.layer_kinds.stack_names`."""
        return stack_names(recurrent=bool(self.recurrent), with_experts=self.mixture is not None)

    def embedding(self, indexed: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> Embedding:
        """A random table, such as that of tokens: (indexed, embed)."""
        return Embedding.init(indexed, self.axes.embed, std=self.std, dtype=dtype, key=next(keys))

    def norm(self, over: Axis | tuple[Axis, ...], dtype: jnp.dtype, *, stacked: tuple[Axis, ...] = ()) -> Any:
        """A `Norm` with factors of 1: (*stacked, *over)."""
        if self.layer_norms and isinstance(over, Axis):
            shift = self.sizes.norm_bias
            return LayerNorm.init(over, stacked=stacked, epsilon=self.epsilon, dtype=dtype, shift=shift)
        return RmsNorm.init(over, stacked=stacked, epsilon=self.epsilon, dtype=dtype, scaling=self.scaling)

    def untied_head(self, vocab: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> Linear | None:
        """A random output head: (embed, vocab). None: the head is the token embedding."""
        if self.sizes.tied:
            return None
        return Linear.init((self.axes.embed,), (vocab,), std=self.std, dtype=dtype, role=Role.HEAD, key=next(keys))


def plain_design(
    layers: int, width: int, heads: int, mlp: int, epsilon: float, std: float, activation: Activation, **other: Any
) -> Design:
    """The design of an encoder, or of its decoder, as of 2017: layer norms, an MLP without a gate, biases everywhere,
    and no rotation."""
    sizes = DecoderSizes(
        layers=layers,
        width=width,
        mlp=mlp,
        heads=heads,
        key_value_heads=heads,
        head_size=width // heads,
        tied=True,
        query_bias=True,
        output_bias=True,
        mlp_bias=True,
        gated=False,
        norm_bias=True,
        learned_positions=True,
    )
    kinds = (BlockKind(None),) * layers
    return Design(sizes, kinds, epsilon, std, activation=activation, layer_norms=True, grouped=False, **other)


@dataclass(frozen=True)
class Mixture:
    """The experts that some or all layers of a decoder have in the place of the MLP.

    Attributes:
        sizes: Their sizes, and which layers have them.
        routing: The rule that chooses the experts of a token.
        losses: Factors of the losses of routers.
        combine: Combines the outputs of the maps ``gate`` and ``up`` of an expert.
    """

    sizes: ExpertSizes
    routing: Routing
    losses: RouterLosses
    combine: Gate

    def init(self, init: LayersInit) -> MixtureOfExperts:
        """Random experts."""
        embed, sizes, stacked = init.design.axes.embed, self.sizes, (init.layers,)
        shared = mlp_of(init, Axis(MLP, sizes.shared)) if sizes.shared else None
        shared_gate = init.linear((embed,), ()) if sizes.shared_gate else None
        first, second, third, fourth = jax.random.split(next(init.keys), 4)
        outer, mlp, routes = (*stacked, Axis(EXPERTS, sizes.experts)), Axis(MLP, sizes.mlp), Axis(ROUTES, sizes.experts)

        def weight(key: PRNGKeyArray, outer: tuple[Axis, ...], inputs: Axis, outputs: Axis) -> NamedArray:
            return normal(key, outer, (inputs,), (outputs,), std=init.design.std, dtype=init.dtype)

        def zero(*axes: Axis) -> NamedArray | None:
            return hax.zeros(axes, dtype=init.dtype) if sizes.bias else None

        router = Router(
            inputs=embed,
            routing=self.routing,
            bias=zero(*stacked, routes),
            weight=weight(first, stacked, embed, routes),
            correction=hax.zeros((*stacked, routes), dtype=jnp.float32) if sizes.correction else None,
        )
        of_experts = Experts(
            experts=outer[-1],
            embed=embed,
            mlp=mlp,
            combine=self.combine,
            gate=weight(second, outer, embed, mlp),
            up=weight(third, outer, embed, mlp),
            down=weight(fourth, outer, mlp, embed),
            gate_bias=zero(*outer, mlp),
            up_bias=zero(*outer, mlp),
            down_bias=zero(*outer, embed),
        )
        return MixtureOfExperts(router, of_experts, shared, shared_gate)
