"""The table of update rules, and the builder of the update of a run from ``spec.optimizer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from halcyon.models import CausalLM
from halcyon.models.parameters import parameters
from halcyon.optim.rule import Scalar, Tree, transformation, wide
from halcyon.optim.rules.adamw import adamw
from halcyon.optim.rules.kron import kron
from halcyon.optim.rules.lion import lion
from halcyon.optim.rules.muon import muon
from halcyon.optim.rules.muon_adamw import muon_adamw
from halcyon.optim.rules.muon_h import muon_h
from halcyon.optim.rules.normuon import normuon
from halcyon.optim.rules.scion import scion
from halcyon.optim.rules.soap import soap
from halcyon.optim.rules.soap_muon import soap_muon
from halcyon_api.spec.optimizer import FOR_MATRICES, OptimizerSpec

Rule = Callable[..., optax.GradientTransformationExtraArgs]
"""See `halcyon.optim.rule`."""

RULES: Mapping[str, Rule] = {
    "adamw": adamw,
    "lion": lion,
    "muon": muon,
    "normuon": normuon,
    "muonH": muon_h,
    "soap": soap,
    "soapMuon": soap_muon,
    "kron": kron,
    "scion": scion,
    "muonAdamw": muon_adamw,
}
"""The function of each rule, by its name in documents."""


def build_optimizer(spec: OptimizerSpec, model: CausalLM, moments: DTypeLike = jnp.float32) -> optax.GradientTransformationExtraArgs:
    """The update of a run: the gradient is clipped by its global norm, then the rule makes the change of each parameter.

    ``update(gradients, state, params, *, learning_rate, weight_decay, step, key)`` takes float32 scalars and returns float32 changes, to be
    added to the parameters. ``weight_decay``, ``step`` and ``key`` may be left out if the rule does not need them. The state is a
    deterministic tree of arrays. Each moment has the axes of its parameter, so that `halcyon.parallel.axes.shardings` gives both the same
    sharding.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, or its shapes; gives the roles of the parameters.
        moments: Type in which the moments are stored.
    """
    further = {"shared": spec.matrices} if spec.kind in FOR_MATRICES else {}
    rule = RULES[spec.kind](spec.value, parameters(model), jnp.dtype(moments), **further)
    clip = optax.clip_by_global_norm(spec.max_gradient_norm) if spec.max_gradient_norm else optax.identity()

    # The state is a pair: this order decides its paths in checkpoints.
    def init(params: Tree) -> tuple[Any, Any]:
        return clip.init(params), rule.init(params)

    def update(
        gradients: Tree,
        state: Any,
        params: Tree,
        *,
        learning_rate: Scalar,
        weight_decay: Scalar | None = None,
        step: jax.Array | int = 0,
        key: jax.Array | None = None,
        **further: Any,
    ) -> tuple[Tree, tuple[Any, Any]]:
        clipped, of_clip = clip.update(jax.tree.map(wide, gradients), state[0], params)
        decay = spec.weight_decay if weight_decay is None else weight_decay
        arguments: dict[str, Any] = {"learning_rate": learning_rate, "weight_decay": decay, "step": step, "key": key, **further}
        changes, of_rule = rule.update(clipped, state[1], params, **arguments)
        return changes, (of_clip, of_rule)

    return transformation(init, update)
