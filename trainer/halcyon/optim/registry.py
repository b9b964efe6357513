"""The table of update rules, and the builder of the update of a run from ``spec.optimizer``."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.models import CausalLM
from halcyon.models.axes import is_named
from halcyon.models.parameters import Parameter, Role, parameters
from halcyon.optim.groups import Group, groups_of
from halcyon.optim.rounding import is_stochastic, stored_as
from halcyon.optim.rule import Given, Rule, Scalar, Tree, frobenius_norm, merge, select, wide
from halcyon.optim.rules.adafactor import adafactor
from halcyon.optim.rules.adam import adam_h, adam_mini, adamw, adopt, mars
from halcyon.optim.rules.kron import kron
from halcyon.optim.rules.lion_and_sophia import lion, sophia
from halcyon.optim.rules.muon import muon, muon_adamw, muon_h, normuon, scion
from halcyon.optim.rules.soap import soap, soap_muon
from halcyon_api.base import ApiModel
from halcyon_api.spec.optimizer import FOR_MATRICES, ClipSpec, OptimizerSpec
from halcyon_api.spec.rules import Estimator, MatricesSpec, SophiaSpec
from halcyon_api.spec.trainer import MomentsType, PrecisionSpec

"""See `halcyon.optim.rule`."""

RULES: Mapping[str, Callable[..., Rule]] = {
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
    "adafactor": adafactor,
    "adopt": adopt,
    "mars": mars,
    "adamMini": adam_mini,
    "adamH": adam_h,
    "sophia": sophia,
}
"""The function of each rule, by its name in documents."""


def needs_key(spec: OptimizerSpec, precision: PrecisionSpec) -> bool:
    """Whether the update of a run draws random numbers: a rule does, or the rounding of its moments."""
    return any(rule.draws for rule in spec.used_rules) or is_stochastic(precision.moments, precision.moments_rounding)


def estimator_of(spec: OptimizerSpec) -> Estimator | None:
    """The estimator of curvature that a rule of the run needs; None if none does."""
    if spec.sophia is not None:
        return spec.sophia.estimator
    return SophiaSpec().estimator if "sophia" in spec.rule_names else None


def build_optimizer(
    spec: OptimizerSpec,
    model: CausalLM,
    moments: MomentsType = "float32",
    rounding: Literal["stochastic"] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The update of a run: gradients are clipped, last by their global norm; then the rule of each group changes its
    parameters.

    ``update(gradients, state, params, *, learning_rate, weight_decay, step, key)`` takes float32 scalars and returns
    float32 changes, to be added to the parameters. ``weight_decay``, ``step`` and ``key`` may be left out if no rule
    needs them. The state is a deterministic tree of arrays. Each moment has the axes of its parameter, so that
    `halcyon.parallel.axes.shardings` gives both the same sharding.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The trained part of the model (`halcyon.models.parameters.split`), or its shapes; gives the roles of the
            parameters.
        moments: Type in which the moments are stored.
        rounding: ``precision.momentsRounding``.

    Raises:
        BadConfiguration: See `halcyon.optim.groups.groups_of`.
    """
    clip = optax.clip_by_global_norm(spec.max_gradient_norm) if spec.max_gradient_norm else optax.identity()
    declared = parameters(model)
    build = _by_group(spec, model) if spec.groups else _rule(spec, spec.kind, spec.value, declared)
    inner = stored_as(build, moments, stochastic=is_stochastic(moments, rounding))

    # The state is a pair: this order decides its paths in checkpoints.
    def init(params: Tree) -> tuple[Any, Any]:
        return clip.init(params), inner.init(params)

    def update(updates: Tree, state: Any, params: Any = None, **extra_args: Any) -> tuple[Tree, tuple[Any, Any]]:
        gradients = clipped(spec.clip, declared, jax.tree.map(wide, updates), params)
        gradients, of_clip = clip.update(gradients, state[0], params)
        arguments: dict[str, Any] = {"weight_decay": spec.weight_decay, **extra_args}
        changes, of_rules = inner.update(state[1], Given(gradients, params, peak_rate=spec.learning_rate, **arguments))
        return changes, (of_clip, of_rules)

    return optax.GradientTransformationExtraArgs(init, update)


def _rule(spec: OptimizerSpec, name: str, settings: ApiModel, declared: Any) -> Rule:
    """One rule for some parameters."""
    further = {"shared": spec.matrices or MatricesSpec()} if name in FOR_MATRICES else {}
    return RULES[name](settings, declared, **further)


def _by_group(spec: OptimizerSpec, model: CausalLM) -> Rule:
    """A rule for each group that is trained.

    The state has the state of each rule under the number of its group; 0 is the rest.
    """
    groups = {
        f"{number}": group
        for number, group in enumerate(groups_of(spec, model))
        if not group.frozen and jax.tree.leaves(group.parameters)
    }
    rules = {name: _rule(spec, group.rule, group.settings, group.parameters) for name, group in groups.items()}
    flags = {name: _flags(group) for name, group in groups.items()}

    def update(state: Any, given: Given) -> tuple[Tree, dict[str, Any]]:
        changes: list[Tree] = [jax.tree.map(lambda _: None, given.gradients, is_leaf=is_named)]
        states: dict[str, Any] = {}
        for number, (name, group) in enumerate(groups.items()):
            follows, decay = group.decay_follows, given.weight_decay
            own = given.of(flags[name])._replace(
                learning_rate=given.learning_rate * group.rate_factor,
                weight_decay=_decay(group, decay, spec.weight_decay) if follows else group.weight_decay,
                key=None if given.key is None else jax.random.fold_in(given.key, number),
                peak_rate=given.peak_rate * group.rate_factor,
                momentum=given.momentum if group.momentum_follows else None,
            )
            change, states[name] = rules[name].update(state[name], own)
            changes.append(change)
        return merge(changes), states

    return Rule(
        lambda params: {name: rules[name].init(select(params, flags[name])) for name in groups},
        update,
    )


def _decay(group: Group, now: Scalar, base: float) -> Scalar:
    """The decay of a group with the run's rule: a schedule of the run's decay scales it."""
    if group.weight_decay == base:
        return now
    return group.weight_decay * (now / base) if base else group.weight_decay


def _flags(group: Group) -> Tree:
    """A bool in the place of each NamedArray of the model: whether it belongs to the group."""
    return jax.tree.map(lambda one: one is not None, group.parameters, is_leaf=lambda one: one is None)


LEAST_WEIGHT_NORM = 1e-3
"""Weights count as at least this long, so that weights of zeros can grow (the paper's epsilon)."""
_TINY = 1e-6


def clipped(spec: ClipSpec | None, parameters: Any, gradients: Tree, params: Tree) -> Tree:
    """The gradients after the clipping of `spec`, element by element first.

    Args:
        spec: ``spec.optimizer.clip``. None: nothing is clipped.
        parameters: See `halcyon.optim.rule`.
        gradients: Float32 gradients.
        params: The parameters.
    """
    if spec is None:
        return gradients
    value, share = spec.value, spec.adaptive
    if value is not None:
        gradients = jax.tree.map(lambda g: jnp.clip(g, -value, value), gradients)
    if share is None:
        return gradients

    def one(parameter: Parameter, gradient: NamedArray, weight: NamedArray) -> NamedArray:
        # The weights of one output, of one token of a table, or of a whole vector.
        table = parameter.role is Role.EMBEDDING or not parameter.inputs
        names = {axis.name for axis in (parameter.outputs if table else parameter.inputs)}
        axes = tuple(number for number, axis in enumerate(gradient.axes) if axis.name in names)
        limit = share * jnp.maximum(frobenius_norm(axes, wide(weight.array)), LEAST_WEIGHT_NORM)
        size = jnp.maximum(frobenius_norm(axes, gradient.array), _TINY)
        return NamedArray(gradient.array * jnp.minimum(1.0, limit / size), gradient.axes)

    return jax.tree.map(one, parameters, gradients, params)
