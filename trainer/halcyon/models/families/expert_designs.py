"""The experts of families whose sections have the names of Hugging Face."""

from __future__ import annotations

from halcyon.models.mixture import Mixture
from halcyon.models.parts.experts import Gate, gate_of
from halcyon.models.parts.moe import RouterLosses
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.experts import ExpertsSection
from halcyon_api.spec.families.section import Activation


def mixture_of(
    spec: ExpertsSection,
    activation: Activation = "silu",
    *,
    normalised: bool = True,
    routing: Routing | None = None,
    combine: Gate | None = None,
    correction: float = 0.0,
) -> Mixture:
    """The experts that a section's common fields describe.

    The section's factor of the balance loss is for a loss that is the experts per token at an even load, ours for 1.

    Args:
        spec: The section.
        activation: The activation function of an expert's gate.
        normalised: Whether the weights of a token's experts are divided by their sum.
        routing: The rule of the routers. None: the softmax over all experts.
        combine: See `Mixture`. None: that of the activation function.
        correction: See `RouterLosses`.
    """
    sizes = spec.experts()
    return Mixture(
        sizes,
        routing or Routing(sizes.per_token, normalised=normalised),
        RouterLosses(spec.router_aux_loss_coef * sizes.per_token, spec.router_z_loss_coef, correction),
        combine or gate_of(activation),
    )
