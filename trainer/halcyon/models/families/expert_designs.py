"""The designs of families with experts whose sections have the names of Hugging Face."""

from __future__ import annotations

from typing import Any

from halcyon.models.design import Design
from halcyon.models.expert_decoder import ExpertDesign
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.moe import RouterLosses
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.experts import ExpertsSection


def expert_design_of(spec: ExpertsSection, plain: Design, *, normalised: bool = True, **other: Any) -> ExpertDesign:
    """The design of a decoder whose routers take a softmax over all experts.

    The section's factor of the balance loss is for a loss that is the experts per token at an even load, ours for 1.

    Args:
        spec: The section.
        plain: The same decoder with an MLP in every layer.
        normalised: Whether the weights of a token's experts are divided by their sum.
        other: Further fields of `ExpertDesign`, also in the place of those here.
    """
    sizes = spec.experts()
    made: dict[str, Any] = {
        "routing": Routing(sizes.per_token, normalised=normalised),
        "losses": RouterLosses(balance=spec.router_aux_loss_coef * sizes.per_token, z=spec.router_z_loss_coef),
        "combine": gate_of(plain.activation),
    }
    return ExpertDesign(plain, sizes, **made | other)
