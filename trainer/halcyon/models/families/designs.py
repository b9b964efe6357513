"""The designs of families whose sections have the names of Hugging Face."""

from __future__ import annotations

from typing import Any

from halcyon.models.block_kinds import BlockKind
from halcyon.models.design import Design
from halcyon.models.parts.rotary import Rope
from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.families.section import Activation


def design_of(
    spec: DecoderSection, activation: Activation, *, windowed: Rope | None = None, partial: float = 1.0, **other: Any
) -> Design:
    """The design that a section's common fields describe.

    Args:
        spec: The section.
        activation: The activation function of the MLP.
        windowed: The rotation of layers that see only a window. None: that of the others.
        partial: The part of each head's features that is rotated.
        other: Further fields of `Design`.
    """
    full = Rope(spec.rope_theta, spec.rope_scaling, partial)
    kinds = {"full_attention": BlockKind(full), "sliding_attention": BlockKind(windowed or full, spec.window)}
    return Design(
        sizes=spec.sizes(),
        kinds=tuple(kinds[kind] for kind in spec.layers_by_type),
        epsilon=spec.rms_norm_eps,
        std=spec.initializer_range,
        activation=activation,
        **other,
    )
