"""The decoder that families with experts are: a norm before each part, and a mixture of experts in the place of some or all MLPs.

A family's file says in an `ExpertDesign` what its decoder is like. Layers with experts and layers with an MLP are a stack each, because
their parameters differ; they are computed in the order of the design.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.decoder import BlockKind, DecoderAxes, Design, self_attention
from halcyon.models.mixed_stacks import scan_forms
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import Role
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.experts import Gate, silu_gate
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask, Window, causal
from halcyon.models.parts.mlp import GatedMlp
from halcyon.models.parts.moe import MixtureOfExperts, RouterLosses, RouterReport, reported
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotary_table
from halcyon.models.parts.routing import Routing
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.stack import Stack
from halcyon_api.spec.families.experts import ExpertSizes


class ExpertBlock(eqx.Module):
    """Attention, and a mixture of experts or an MLP, each added to the residual stream."""

    attention_norm: RmsNorm
    attention: Any
    """`SelfAttention`, or another module with the same call."""
    mlp_norm: RmsNorm
    mlp: MixtureOfExperts | GatedMlp

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable) -> tuple[NamedArray, RouterReport | None]:
        """(..., position, embed) to the same axes, and the report of the router if there is one."""
        x = x + self.attention(self.attention_norm(x), mask, rotary)
        normed = self.mlp_norm(x)
        if isinstance(self.mlp, MixtureOfExperts):
            out, report = self.mlp(normed)
        else:
            out, report = self.mlp(normed), None
        return divided(x + out), report


InitAttention = Callable[["ExpertDesign", Axis, jnp.dtype, Iterator[PRNGKeyArray]], eqx.Module]
"""Makes the attention of all layers of one form; see `plain_attention`."""


def plain_attention(design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> SelfAttention:
    """The self-attention of the same decoder without experts."""
    return self_attention(design.plain, layers, dtype, keys)


@dataclass(frozen=True)
class ExpertDesign:
    """What a family's decoder with experts is like.

    Attributes:
        plain: The same decoder with an MLP in every layer.
        experts: The sizes of the layers with experts, and which layers these are.
        routing: The rule that chooses the experts of a token.
        losses: Factors of the losses of routers.
        combine: Combines the outputs of the maps ``gate`` and ``up`` of an expert.
        attention: Makes the attention. It is not compared: two loads of a model have equal designs.
        rotated: Features of a head that the rotations of `plain` are for. None: all.
    """

    plain: Design
    experts: ExpertSizes
    routing: Routing
    losses: RouterLosses
    combine: Gate = silu_gate
    attention: InitAttention = field(default=plain_attention, compare=False)
    rotated: Axis | None = None

    def block(self, layers: Axis, with_experts: bool, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> ExpertBlock:
        """Random parameters of all layers of one form: every parameter has the axis ``layers`` in front."""
        plain, experts, at = self.plain, self.experts, DecoderAxes.of(self.plain.sizes)
        norm = functools.partial(RmsNorm.init, stacked=(layers,), epsilon=plain.epsilon, dtype=dtype, scaling=plain.scaling)

        def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...]) -> Linear:
            return Linear.init(inputs, outputs, stacked=(layers,), std=plain.std, dtype=dtype, key=next(keys))

        def mixture() -> MixtureOfExperts:
            shared = Axis(axes.MLP, experts.shared)
            return MixtureOfExperts.init(
                at.embed,
                experts.experts,
                Axis(axes.MLP, experts.mlp),
                self.routing,
                stacked=(layers,),
                std=plain.std,
                dtype=dtype,
                bias=experts.bias,
                correction=experts.correction,
                combine=self.combine,
                shared=GatedMlp.init(at.embed, shared, linear, plain.activation) if experts.shared else None,
                shared_gate=linear((at.embed,), ()) if experts.shared_gate else None,
                key=next(keys),
            )

        return ExpertBlock(
            attention_norm=norm(at.embed),
            attention=self.attention(self, layers, dtype, keys),
            mlp_norm=norm(at.embed),
            mlp=mixture() if with_experts else GatedMlp.init(at.embed, at.mlp, linear, plain.activation),
        )


class ExpertDecoder(CausalLM):
    """A decoder of an `ExpertDesign`. A family is a subclass without fields of its own."""

    embedding: Embedding
    dense_blocks: Stack[ExpertBlock] | None
    """The layers without experts, in order."""
    blocks: Stack[ExpertBlock] | None
    """The layers with experts, in order."""
    norm: RmsNorm
    untied_head: Linear | None
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    design: ExpertDesign = eqx.field(static=True)

    @classmethod
    def of(cls, design: ExpertDesign, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases, sinks and corrections 0, factors of norms 1."""
        plain = design.plain
        embed, std = DecoderAxes.of(plain.sizes).embed, plain.std
        of_tables, of_dense, of_sparse = jax.random.split(key, 3)
        tables = iter(jax.random.split(of_tables, 2))

        def stack(with_experts: bool, key: PRNGKeyArray) -> Stack[ExpertBlock] | None:
            layers = Axis(axes.LAYERS, design.experts.with_experts.count(with_experts))
            if not layers.size:
                return None
            return Stack(layers, design.block(layers, with_experts, dtype, iter(jax.random.split(key, 16))))

        return cls(
            embedding=Embedding.init(vocab, embed, std=std, dtype=dtype, key=next(tables)),
            dense_blocks=stack(False, of_dense),
            blocks=stack(True, of_sparse),
            norm=RmsNorm.init(embed, epsilon=plain.epsilon, dtype=dtype, scaling=plain.scaling),
            untied_head=None
            if plain.sizes.tied
            else Linear.init((embed,), (vocab,), std=std, dtype=dtype, role=Role.HEAD, key=next(tables)),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
            design=design,
        )

    def __call__(self, inputs: Inputs, *, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """See `CausalLM.__call__`."""
        design, kinds = self.design, self.design.plain.kinds
        position = self._position_axis(inputs.tokens)
        rotated = design.rotated or DecoderAxes.of(design.plain.sizes).head_size
        everything = causal(inputs.segments)
        masks = {window: everything if window is None else everything & Window(window) for window in {kind.window: None for kind in kinds}}
        ropes = {rope: rotary_table(position, rotated, rope, inputs.positions) for rope in {kind.rope: None for kind in kinds}}

        def step(kind: BlockKind, block: ExpertBlock, x: NamedArray) -> tuple[NamedArray, RouterReport | None]:
            return block(x, masks[kind.window], ropes[kind.rope])

        stacks = {with_experts: stack for with_experts, stack in ((False, self.dense_blocks), (True, self.blocks)) if stack is not None}
        order = tuple(zip(design.experts.with_experts, kinds, strict=True))
        x, reports = scan_forms(stacks, order, step, self.embedding(inputs.tokens, jnp.dtype(compute_dtype)))
        if reports is None:
            return Outputs(self.norm(x))
        aux, penalty = reported(reports, design.losses)
        return Outputs(self.norm(x), aux=aux, penalty=penalty)

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
