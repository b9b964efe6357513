"""The decoder in which some layers have a gated delta net and the others attention, with an MLP or experts in each.

Layers with unlike parameters are a stack each: up to four. They are computed in the order of the design.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.decoder import BlockKind, DecoderAxes
from halcyon.models.expert_decoder import ExpertBlock, ExpertDesign, InitAttention
from halcyon.models.mixed_stacks import scan_forms
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import Role
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import causal
from halcyon.models.parts.moe import RouterReport, reported
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import rotary_table
from halcyon.models.stack import Stack

Form = Literal["linear_blocks", "linear_expert_blocks", "full_blocks", "full_expert_blocks"]
"""The field with the blocks of one form: the mixer, and whether there are experts."""


@dataclass(frozen=True)
class HybridDesign:
    """What a family's decoder is like.

    Attributes:
        of_layers: The decoder, with the attention of its full layers. The kinds of all layers have the same rotation.
        linear: Makes the gated delta nets. It is not compared.
        is_linear: For each layer, whether it has a gated delta net.
    """

    of_layers: ExpertDesign
    linear: InitAttention = field(compare=False)
    is_linear: tuple[bool, ...]

    @property
    def forms(self) -> tuple[Form, ...]:
        """The form of each layer."""
        return tuple(form_of(*layer) for layer in zip(self.is_linear, self.of_layers.experts.with_experts, strict=True))


def form_of(is_linear: bool, with_experts: bool) -> Form:
    """The form of a layer."""
    if is_linear:
        return "linear_expert_blocks" if with_experts else "linear_blocks"
    return "full_expert_blocks" if with_experts else "full_blocks"


class HybridDecoder(CausalLM):
    """A decoder of a `HybridDesign`. A family is a subclass without fields of its own."""

    embedding: Embedding
    linear_blocks: Stack[ExpertBlock] | None
    """The layers with a gated delta net and an MLP, in order."""
    linear_expert_blocks: Stack[ExpertBlock] | None
    """The layers with a gated delta net and experts, in order."""
    full_blocks: Stack[ExpertBlock] | None
    """The layers with attention and an MLP, in order."""
    full_expert_blocks: Stack[ExpertBlock] | None
    """The layers with attention and experts, in order."""
    norm: RmsNorm
    untied_head: Linear | None
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    design: HybridDesign = eqx.field(static=True)

    @classmethod
    def of(cls, design: HybridDesign, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases 0, factors of norms 1. See `GatedDeltaNet.init`."""
        layers, plain = design.of_layers, design.of_layers.plain
        embed, std = DecoderAxes.of(plain.sizes).embed, plain.std
        of_tables, *of_stacks = jax.random.split(key, 5)
        tables = iter(jax.random.split(of_tables, 2))

        def stack(is_linear: bool, with_experts: bool, key: PRNGKeyArray) -> Stack[ExpertBlock] | None:
            count = Axis(axes.LAYERS, design.forms.count(form_of(is_linear, with_experts)))
            if not count.size:
                return None
            own = dataclasses.replace(layers, attention=design.linear) if is_linear else layers
            return Stack(count, own.block(count, with_experts, dtype, iter(jax.random.split(key, 16))))

        return cls(
            embedding=Embedding.init(vocab, embed, std=std, dtype=dtype, key=next(tables)),
            linear_blocks=stack(True, False, of_stacks[0]),
            linear_expert_blocks=stack(True, True, of_stacks[1]),
            full_blocks=stack(False, False, of_stacks[2]),
            full_expert_blocks=stack(False, True, of_stacks[3]),
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
        design, plain = self.design, self.design.of_layers.plain
        position, mask = self._position_axis(inputs.tokens), causal(inputs.segments)
        kind: BlockKind = plain.kinds[0]
        rotary = rotary_table(position, DecoderAxes.of(plain.sizes).head_size, kind.rope, inputs.positions)

        def step(form: str, block: Any, x: NamedArray) -> tuple[NamedArray, RouterReport | None]:
            if form in ("linear_blocks", "linear_expert_blocks"):
                return block(x, inputs.segments, None)
            return block(x, mask, rotary)

        stacks: dict[str, Any] = {form: getattr(self, form) for form in dict.fromkeys(design.forms)}
        order = tuple((form, form) for form in design.forms)
        x, reports = scan_forms(stacks, order, step, self.embedding(inputs.tokens, jnp.dtype(compute_dtype)))
        if reports is None:
            return Outputs(self.norm(x))
        aux, penalty = reported(reports, design.of_layers.losses)
        return Outputs(self.norm(x), aux=aux, penalty=penalty)

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
