"""What a decoder of a family is like, and how its parts are made from that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import haliax as hax
import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.block_kinds import BlockKind
from halcyon.models.forms import Form, layer_forms, stack_names
from halcyon.models.parameters import Role
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.norm import RmsNorm, Scaling
from halcyon.models.parts.self_attention import SelfAttention
from halcyon_api.spec.families.section import Activation, DecoderSizes

if TYPE_CHECKING:  # a decoder without experts loads no code for them
    from halcyon.models.mixture import Mixture


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


def self_attention(
    design: Design, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray], *, gated: bool = False
) -> SelfAttention:
    """The self-attention that a design describes, with or without a gate: every parameter has the axis ``layers`` in
    front."""
    sizes, at = design.sizes, DecoderAxes.of(design.sizes)
    linear = functools.partial(design.linear, layers=layers, dtype=dtype, keys=keys)
    return SelfAttention.init(
        at.embed,
        (at.kv_heads,),
        (at.queries,),
        at.head_size,
        functools.partial(linear, bias=sizes.query_bias),
        functools.partial(linear, bias=sizes.output_bias),
        norm=functools.partial(design.norm, dtype=dtype, stacked=(layers,)) if sizes.query_norm else None,
        norm_of=sizes.query_norm or "head",
        sinks=hax.zeros((layers, at.kv_heads, at.queries), dtype=dtype) if sizes.sinks else None,
        scale=design.score_scale,
        soft_cap=design.score_cap,
        gated=gated,
    )


InitMixer = Callable[["Design", Axis, jnp.dtype, Iterator[PRNGKeyArray]], Any]
"""Makes what mixes the positions in all layers of one form, such as `self_attention`: every parameter has the axis
``layers`` in front."""


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

    @property
    def forms(self) -> tuple[Form, ...]:
        """The form of each layer."""
        return layer_forms(
            len(self.kinds), self.recurrent, () if self.mixture is None else self.mixture.sizes.with_experts
        )

    @property
    def stacks(self) -> dict[Form, str]:
        """See `halcyon.models.forms.stack_names`."""
        return stack_names(recurrent=bool(self.recurrent), with_experts=self.mixture is not None)

    def embedding(self, vocab: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> Embedding:
        """A random token embedding: (vocab, embed)."""
        return Embedding.init(vocab, DecoderAxes.of(self.sizes).embed, std=self.std, dtype=dtype, key=next(keys))

    def norm(self, over: Axis | tuple[Axis, ...], dtype: jnp.dtype, *, stacked: tuple[Axis, ...] = ()) -> RmsNorm:
        """A norm with factors of 1: (*stacked, *over)."""
        return RmsNorm.init(over, stacked=stacked, epsilon=self.epsilon, dtype=dtype, scaling=self.scaling)

    def linear(
        self,
        inputs: tuple[Axis, ...],
        outputs: tuple[Axis, ...],
        bias: bool = False,
        *,
        layers: Axis,
        dtype: jnp.dtype,
        keys: Iterator[PRNGKeyArray],
    ) -> Linear:
        """A random linear map of each layer: (layers, *inputs, *outputs)."""
        return Linear.init(inputs, outputs, stacked=(layers,), std=self.std, dtype=dtype, bias=bias, key=next(keys))

    def untied_head(self, vocab: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> Linear | None:
        """A random output head: (embed, vocab). None: the head is the token embedding."""
        if self.sizes.tied:
            return None
        embed = DecoderAxes.of(self.sizes).embed
        return Linear.init((embed,), (vocab,), std=self.std, dtype=dtype, role=Role.HEAD, key=next(keys))
