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

from halcyon.models.block_kinds import masks_and_rotations
from halcyon.models.cache import Cache, FixedState, Layers, Memory, PositionState
from halcyon.models.design import DecoderAxes
from halcyon.models.expert_decoder import ExpertBlock, ExpertDesign, InitAttention
from halcyon.models.mixed_stacks import scan_forms
from halcyon.models.model import Inputs, Outputs
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.moe import RouterReport
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.stack import Stack
from halcyon.models.token_decoder import TokenDecoder

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


class HybridDecoder(TokenDecoder):
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
    design: HybridDesign = eqx.field(static=True)

    @classmethod
    def of(cls, design: HybridDesign, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Self:
        """Random parameters: normal with the design's standard deviation; biases 0, factors of norms 1. See `GatedDeltaNet.init`."""
        layers, plain = design.of_layers, design.of_layers.plain
        embed = DecoderAxes.of(plain.sizes).embed
        of_tables, *of_stacks = jax.random.split(key, 5)
        tables = iter(jax.random.split(of_tables, 2))

        def stack(is_linear: bool, with_experts: bool, key: PRNGKeyArray) -> Stack[ExpertBlock] | None:
            own = dataclasses.replace(layers, attention=design.linear) if is_linear else layers
            return own.stack(design.forms.count(form_of(is_linear, with_experts)), with_experts, dtype, key)

        return cls(
            embedding=plain.embedding(vocab, dtype, tables),
            linear_blocks=stack(True, False, of_stacks[0]),
            linear_expert_blocks=stack(True, True, of_stacks[1]),
            full_blocks=stack(False, False, of_stacks[2]),
            full_expert_blocks=stack(False, True, of_stacks[3]),
            norm=plain.norm(embed, dtype),
            untied_head=plain.untied_head(vocab, dtype, tables),
            vocab=vocab,
            max_position=max_position,
            embed=embed,
            design=design,
        )

    @property
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """See `TokenDecoder.kept`."""

        def of_form(form: Form) -> PositionState | FixedState:
            found = getattr(self, form).stacked.attention.kept
            return found if isinstance(found, FixedState) else PositionState(found, self.design.of_layers.plain.kinds[0].window)

        return tuple(of_form(form) for form in self.design.forms)

    def __call__(self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32) -> Outputs:
        """See `TokenDecoder.__call__`."""
        inputs = inputs if cache is None else cache.placed(inputs)
        design, plain = self.design, self.design.of_layers.plain
        kind, head_size = plain.kinds[0], DecoderAxes.of(plain.sizes).head_size
        mask, rotary = masks_and_rotations((kind,), inputs, self._position_axis(inputs.tokens), head_size)[kind]

        def step(form: str, block: Any, x: NamedArray) -> tuple[NamedArray, RouterReport | None]:
            if form in ("linear_blocks", "linear_expert_blocks"):
                return block(x, inputs.segments, None, weights=inputs.weights)
            return block(x, mask, rotary, weights=inputs.weights)

        stacks: dict[str, Any] = {form: getattr(self, form) for form in dict.fromkeys(design.forms)}
        order = tuple((form, form) for form in design.forms)
        x = self.embedding(inputs.tokens, jnp.dtype(compute_dtype))
        if cache is not None:

            def remembering(form: str, block: Any, carry: tuple[NamedArray, Layers]) -> tuple[Any, None]:
                is_linear = form in ("linear_blocks", "linear_expert_blocks")
                memory = Memory(cache, carry[1], kind.window, fixed=is_linear)
                x, _ = block(carry[0], None if is_linear else mask, None if is_linear else rotary, memory)
                return (x, memory.layers), None

            (x, layers), _ = scan_forms(stacks, order, remembering, (x, Layers.of(cache)))
            return Outputs(self.norm(x), layers.closed(cache, inputs.tokens))
        x, reports = scan_forms(stacks, order, step, x)
        return design.of_layers.outputs(self.norm, x, reports)
