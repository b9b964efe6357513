"""The designs of families whose sections have the names of Hugging Face."""

from __future__ import annotations

from halcyon.models.block_kinds import BlockKind
from halcyon.models.design import Design
from halcyon.models.parts.moe import RouterLosses
from halcyon.models.parts.rotary import Rope
from halcyon_api.spec.families.decoder import DecoderSection
from halcyon_api.spec.families.experts import ExpertsSection
from halcyon_api.spec.families.section import Activation


def design_of(spec: DecoderSection, activation: Activation, *, windowed: Rope | None = None) -> Design:
    """The design that a section's common fields describe; a family replaces what it does otherwise.

    Args:
        spec: The section.
        activation: The activation function of the MLP.
        windowed: The rotation of layers that see only a window. None: that of the others.
    """
    full = Rope(spec.rope_theta, spec.rope_scaling)
    kinds = {"full_attention": BlockKind(full), "sliding_attention": BlockKind(windowed or full, spec.window)}
    return Design(
        sizes=spec.sizes(),
        kinds=tuple(kinds[kind] for kind in spec.layers_by_type),
        epsilon=spec.rms_norm_eps,
        std=spec.initializer_range,
        activation=activation,
    )


def router_losses(spec: ExpertsSection) -> RouterLosses:
    """The factors of the router losses. The section's factor is for a loss that is the experts per token at an even load, ours for 1."""
    return RouterLosses(balance=spec.router_aux_loss_coef * spec.experts().per_token, z=spec.router_z_loss_coef)
