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
from halcyon.models.block_kinds import BlockKind, masks_and_rotations
from halcyon.models.cache import Cache, Layers, Memory, PositionState
from halcyon.models.design import DecoderAxes, Design, self_attention
from halcyon.models.mixed_stacks import scan_forms
from halcyon.models.model import Inputs, Outputs
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.experts import Gate, silu_gate
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.mlp import GatedMlp
from halcyon.models.parts.moe import MixtureOfExperts, RouterLosses, RouterReport, reported
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable
from halcyon.models.parts.routing import Routing
from halcyon.models.parts.self_attention import SelfAttention
from halcyon.models.stack import Stack
from halcyon.models.token_decoder import TokenDecoder
from halcyon_api.spec.families.experts import ExpertSizes


class ExpertBlock(eqx.Module):
    """Attention, and a mixture of experts or an MLP, each added to the residual stream."""

    attention_norm: RmsNorm
    attention: Any
    """`SelfAttention`, or another module with the same call."""
    mlp_norm: RmsNorm
    mlp: MixtureOfExperts | GatedMlp

    def __call__(
        self, x: NamedArray, mask: Mask, rotary: RotaryTable, memory: Memory | None = None, weights: NamedArray | None = None
    ) -> tuple[NamedArray, RouterReport | None]:
        """(..., position, embed) to the same axes, and the report of the router if there is one; `weights` are those of `Inputs`."""
        x = x + self.attention(self.attention_norm(x), mask, rotary, memory=memory)
        normed = self.mlp_norm(x)
        if isinstance(self.mlp, MixtureOfExperts):
            out, report = self.mlp(normed, weights)
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
        norm = functools.partial(plain.norm, dtype=dtype, stacked=(layers,))
        linear = functools.partial(plain.linear, layers=layers, dtype=dtype, keys=keys)

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

    def stack(self, count: int, with_experts: bool, dtype: jnp.dtype, key: PRNGKeyArray) -> Stack[ExpertBlock] | None:
        """A stack of `count` random blocks of one form; None for no blocks."""
        if not count:
            return None
        layers = Axis(axes.LAYERS, count)
        return Stack(layers, self.block(layers, with_experts, dtype, iter(jax.random.split(key, 16))))

    def outputs(self, norm: RmsNorm, x: NamedArray, reports: RouterReport | None) -> Outputs:
        """The outputs of a decoder.

        Args:
            norm: The last norm.
            x: The output of the last block.
            reports: The reports of the routers of all layers with experts. None: there are none.
        """
        if reports is None:
            return Outputs(norm(x))
        aux, penalty = reported(reports, self.losses)
        return Outputs(norm(x), aux=aux, penalty=penalty)


class ExpertDecoder(TokenDecoder):
    """A decoder of an `ExpertDesign`. A family is a subclass without fields of its own."""

    embedding: Embedding
    dense_blocks: Stack[ExpertBlock] | None
    """The layers without experts, in order."""
    blocks: Stack[ExpertBlock] | None
    """The layers with experts, in order."""
    norm: RmsNorm
    untied_head: Linear | None
    design: ExpertDesign = eqx.field(static=True)

    @classmethod
    def of(cls, design: ExpertDesign, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases, sinks and corrections 0, factors of norms 1."""
        plain, with_experts = design.plain, design.experts.with_experts
        embed = DecoderAxes.of(plain.sizes).embed
        of_tables, of_dense, of_sparse = jax.random.split(key, 3)
        tables = iter(jax.random.split(of_tables, 2))
        return cls(
            embedding=plain.embedding(vocab, dtype, tables),
            dense_blocks=design.stack(with_experts.count(False), False, dtype, of_dense),
            blocks=design.stack(with_experts.count(True), True, dtype, of_sparse),
            norm=plain.norm(embed, dtype),
            untied_head=plain.untied_head(vocab, dtype, tables),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
            design=design,
        )

    @property
    def kept(self) -> tuple[PositionState, ...]:
        """See `TokenDecoder.kept`."""
        stack = self.blocks or self.dense_blocks
        return () if stack is None else tuple(PositionState(stack.stacked.attention.kept, kind.window) for kind in self.design.plain.kinds)

    def __call__(self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """See `TokenDecoder.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        design, kinds = self.design, self.design.plain.kinds
        rotated = design.rotated or DecoderAxes.of(design.plain.sizes).head_size
        attended = masks_and_rotations(kinds, inputs, self._position_axis(inputs.tokens), rotated)

        def step(kind: BlockKind, block: ExpertBlock, x: NamedArray) -> tuple[NamedArray, RouterReport | None]:
            return block(x, *attended[kind], weights=inputs.weights)

        stacks = {with_experts: stack for with_experts, stack in ((False, self.dense_blocks), (True, self.blocks)) if stack is not None}
        order = tuple(zip(design.experts.with_experts, kinds, strict=True))
        x = self.embedding(inputs.tokens, jnp.dtype(compute_dtype))
        if cache is not None:

            def remembering(kind: BlockKind, block: ExpertBlock, carry: tuple[NamedArray, Layers]) -> tuple[Any, None]:
                memory = Memory(cache, carry[1], kind.window)
                x, _ = block(carry[0], *attended[kind], memory)
                return (x, memory.layers), None

            (x, layers), _ = scan_forms(stacks, order, remembering, (x, Layers.of(cache)))
            return Outputs(self.norm(x), layers.closed(cache, inputs.tokens))
        x, reports = scan_forms(stacks, order, step, x)
        return design.outputs(self.norm, x, reports)
