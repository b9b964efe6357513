"""A mixture of experts as a part of a block: a router sends each token to a few experts and adds up their outputs.

The router computes in float32 whatever the compute type. Every token gets all its experts: nothing is dropped, however
uneven the load is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import LAYERS, POSITION, ROUTES, elementwise, recomputed
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import Result, Shard, by_device, divided
from halcyon.models.parts.coded import is_coded
from halcyon.models.parts.dispatch import dispatched
from halcyon.models.parts.experts import Experts
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.mlp import Mlp
from halcyon.models.parts.routing import Routing, balance, choose
from halcyon.models.parts.weight import add_wide, apply_weight


class RouterReport(NamedTuple):
    """How a layer's router distributes the tokens of each sequence, float32; see
    `halcyon.models.parts.routing.Balance`.
    """

    load: NamedArray
    """(..., routes), without positions."""
    balance_loss: NamedArray
    """(...), without positions."""
    z_loss: NamedArray
    """(...), without positions."""
    pull: NamedArray
    """The correction times the excess of the load over an even one, summed over the experts: (...), without positions.
    0 without a correction. Only its gradient is used: it moves the correction against the load."""


class Router(eqx.Module):
    """The linear map from features to one logit for each expert, and the rule that chooses by the logits."""

    inputs: Axis = eqx.field(static=True)
    routing: Routing = eqx.field(static=True)
    weight: NamedArray = parameter(Role.ROUTER, inputs="inputs")
    bias: NamedArray | None = parameter(Role.BIAS)
    correction: NamedArray | None = parameter(Role.BIAS)
    """(*stacked, routes): added to the scores for the choice alone.

    It gets no gradient but that of `RouterLosses.correction`.
    """

    def logits(self, x: NamedArray) -> NamedArray:
        """(..., inputs) to float32 (..., routes)."""

        def product(x: NamedArray, weight: NamedArray) -> NamedArray:
            return apply_weight(x.astype(jnp.float32), weight, (self.inputs,))

        found: Any = recomputed(product)(x, self.weight)
        return divided(found if self.bias is None else add_wide(found, self.bias))


class MixtureOfExperts(eqx.Module):
    """A router, its experts and, in some families, an MLP that every token goes through."""

    router: Router
    experts: Experts
    shared: Mlp | None
    shared_gate: Linear | None = None
    """To a factor of that MLP's output, after a sigmoid. None: no such factor."""

    def __call__(self, x: NamedArray, weights: NamedArray | None = None) -> tuple[NamedArray, RouterReport]:
        """(..., position, embed) to the same axes, and the report of the router.

        Args:
            x: (..., position, embed).
            weights: The weight of each token in the report: float32 (..., position). None: 1.
        """
        embed, position = self.router.inputs, x.resolve_axis(POSITION)
        outer = tuple(axis.name for axis in x.axes if axis not in (position, embed))
        x = x.rearrange((*outer, POSITION, embed.name))
        tokens = tuple(axis for axis in x.axes if axis != embed)
        weights = hax.ones(tokens) if weights is None else weights.rearrange(tokens)
        routing, experts = self.router.routing, self.experts

        def of_device(
            shard: Shard, activations: tuple[NamedArray, ...], parameters: tuple[Experts, NamedArray | None]
        ) -> Any:
            rows, logits = (each.array.reshape(-1, *each.array.shape[-2:]) for each in activations[:2])
            of_token = activations[2].array.reshape(logits.shape[:-1])
            mine, correction = parameters
            choice = choose(logits, routing, None if correction is None else correction.array)
            sent = rows.reshape(-1, embed.size)
            chosen, weights = (each.reshape(len(sent), -1) for each in (choice.experts, choice.weights))
            combined = dispatched(
                shard, experts.experts, sent, chosen, weights, lambda rows, sizes: mine.of_device(shard, rows, sizes)
            )
            out = shard.sum_over(experts.mlp, combined.astype(rows.dtype))
            found = balance(logits, choice, of_token, position.size, lambda part: shard.sum_over(position, part))
            lead = activations[0].array.shape[:-2]
            pull = jnp.zeros_like(found.z_loss) if correction is None else (found.load - 1) @ correction.array
            return (
                NamedArray(out.reshape(activations[0].array.shape), x.axis_names),
                RouterReport(
                    NamedArray(found.load.reshape(*lead, -1), (*outer, ROUTES)),
                    NamedArray(found.balance_loss.reshape(lead), outer),
                    NamedArray(found.z_loss.reshape(lead), outer),
                    NamedArray(pull.reshape(lead), outer),
                ),
            )

        # As float32 a parameter's gradient stays wide until it is summed over all devices. Codes have none.
        wide = jax.tree.map(
            lambda leaf: leaf if is_coded(leaf) else leaf.astype(jnp.float32),
            (experts, self.router.correction),
            is_leaf=is_coded,
        )
        results = (Result(x.axis_names), RouterReport(Result((*outer, ROUTES)), *(Result(outer),) * 3))  # pyright: ignore[reportArgumentType]
        out, report = by_device(of_device, (x, self.router.logits(x), weights), wide, results)
        if self.shared is not None:
            always = self.shared(x)
            if self.shared_gate is not None:
                always = elementwise(
                    recomputed(lambda always, gate: always * jax.nn.sigmoid(gate)), always, self.shared_gate(x)
                )
            out = out + always
        return divided(out), report


class RouterLosses(NamedTuple):
    """Factors of the losses of routers."""

    balance: float
    z: float
    correction: float = 0.0
    """Factor of the gradient that moves the corrections against the load; 0: they stay as they are."""


def reported(reports: RouterReport, losses: RouterLosses) -> tuple[dict[str, NamedArray], NamedArray]:
    """`Outputs.aux` and `Outputs.penalty` of a model.

    Args:
        reports: The reports of all layers, with a dimension without a name for the layers in front, as a scan returns
            them.
        losses: Factors of the losses.
    """
    load, balance_loss, z_loss, pull = (NamedArray(each.array, (LAYERS, *each.axis_names)) for each in reports)
    balance_mean, z_mean = (hax.mean(each, LAYERS) for each in (balance_loss, z_loss))
    aux: dict[str, Any] = {"expert_load": load, "load_balance_loss": balance_mean, "router_z_loss": z_mean}
    penalty: Any = balance_mean * losses.balance + z_mean * losses.z
    if losses.correction:
        pulls: Any = hax.sum(pull, LAYERS) * losses.correction
        penalty = penalty + (pulls - jax.lax.stop_gradient(pulls))  # a gradient without a value
    return aux, penalty
