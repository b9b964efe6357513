"""The experts of a decoder: which layers have them, how they are made, and what their routers report."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.design import DecoderAxes, Design
from halcyon.models.parts.experts import Gate
from halcyon.models.parts.mlp import GatedMlp
from halcyon.models.parts.moe import MixtureOfExperts, RouterLosses, RouterReport, reported
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.experts import ExpertSizes


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

    def init(self, design: Design, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> MixtureOfExperts:
        """Random experts: every parameter has the axis ``layers`` in front."""
        sizes, embed = self.sizes, DecoderAxes.of(design.sizes).embed
        linear = functools.partial(design.linear, layers=layers, dtype=dtype, keys=keys)
        return MixtureOfExperts.init(
            embed,
            sizes.experts,
            Axis(axes.MLP, sizes.mlp),
            self.routing,
            stacked=(layers,),
            std=design.std,
            dtype=dtype,
            bias=sizes.bias,
            correction=sizes.correction,
            combine=self.combine,
            shared=GatedMlp.init(embed, Axis(axes.MLP, sizes.shared), linear, design.activation)
            if sizes.shared
            else None,
            shared_gate=linear((embed,), ()) if sizes.shared_gate else None,
            key=next(keys),
        )

    def reported(self, reports: RouterReport) -> tuple[dict[str, NamedArray], NamedArray]:
        """`Outputs.aux` and `Outputs.penalty`, from the reports of all layers with experts."""
        return reported(reports, self.losses)
