"""The table of update rules, and the builder of the update of a run from ``spec.optimizer``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from halcyon.models import CausalLM
from halcyon.models.axes import is_named
from halcyon.models.parameters import parameters
from halcyon.optim.groups import Group, groups_of
from halcyon.optim.rule import Scalar, Tree, merge, select, transformation, wide
from halcyon.optim.rules.adafactor import adafactor
from halcyon.optim.rules.adam_h import adam_h
from halcyon.optim.rules.adam_mini import adam_mini
from halcyon.optim.rules.adamw import adamw
from halcyon.optim.rules.ademamix import ademamix
from halcyon.optim.rules.adopt import adopt
from halcyon.optim.rules.lion import lion
from halcyon.optim.rules.mars import mars
from halcyon.optim.rules.schedule_free import averaged, schedule_free
from halcyon.optim.rules.sophia import sophia
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.rules.adam_variants import ScheduleFreeSpec
from halcyon_api.spec.rules.sophia import Estimator, SophiaSpec

Rule = Callable[[Any, Any, jnp.dtype], optax.GradientTransformationExtraArgs]
"""See `halcyon.optim.rule`."""

RULES: Mapping[str, Rule] = {
    "adamw": adamw,
    "lion": lion,
    "adafactor": adafactor,
    "adopt": adopt,
    "mars": mars,
    "ademamix": ademamix,
    "scheduleFree": schedule_free,
    "adamMini": adam_mini,
    "adamH": adam_h,
    "sophia": sophia,
}
"""The function of each rule, by its name in documents."""

RANDOM: frozenset[str] = frozenset()
"""The rules that draw random numbers."""


def needs_key(spec: OptimizerSpec) -> bool:
    """Whether a rule of the run draws random numbers."""
    return not RANDOM.isdisjoint({spec.kind, *(group.rule for group in spec.groups or ())})


def estimator_of(spec: OptimizerSpec) -> Estimator | None:
    """The estimator of curvature that a rule of the run needs; None if none does."""
    if spec.sophia is not None:
        return spec.sophia.estimator
    return SophiaSpec().estimator if any(group.rule == "sophia" for group in spec.groups or ()) else None


def build_optimizer(spec: OptimizerSpec, model: CausalLM, moments: DTypeLike = jnp.float32) -> optax.GradientTransformationExtraArgs:
    """The update of a run: gradients are clipped by their global norm, then the rule of each group makes the changes of its parameters.

    ``update(gradients, state, params, *, learning_rate, weight_decay, step, key)`` takes scalars and returns float32 changes, to be added
    to the parameters; None in the places of frozen ones. ``weight_decay``, ``step`` and ``key`` may be left out if no rule needs them.
    The state is a deterministic tree of arrays. Each moment has the axes of its parameter, so that `halcyon.parallel.axes.shardings`
    gives both the same sharding.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, or its shapes; gives the roles of the parameters.
        moments: Type in which the moments are stored.

    Raises:
        BadConfiguration: A group has no parameter, or two groups have the same one.
    """
    clip = optax.clip_by_global_norm(spec.max_gradient_norm) if spec.max_gradient_norm else optax.identity()
    inner = _by_group(spec, model, jnp.dtype(moments)) if spec.groups else _plain(spec, parameters(model), jnp.dtype(moments))

    # The state is a pair: this order decides its paths in checkpoints.
    def init(params: Tree) -> tuple[Any, Any]:
        return clip.init(params), inner.init(params)

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
        changes, of_rules = inner.update(clipped, state[1], params, **arguments)
        return changes, (of_clip, of_rules)

    return transformation(init, update)


def averages(spec: OptimizerSpec, model: CausalLM) -> Callable[[Any, Tree], Tree] | None:
    """A function of the state and the parameters: those to evaluate, if a rule keeps a mean of its points. None: no rule does.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, or its shapes.
    """
    if not spec.groups:
        settings = spec.schedule_free
        return None if settings is None else lambda state, params: averaged(settings, state[1], params)
    groups = [(f"{n}", group, _flags(group, model)) for n, group in enumerate(groups_of(spec, model)) if jax.tree.leaves(group.parameters)]
    if not any(isinstance(group.settings, ScheduleFreeSpec) and not group.frozen for _, group, _ in groups):
        return None

    def found(state: Any, params: Tree) -> Tree:
        parts: list[Tree] = []
        for name, group, flags in groups:
            own = select(params, flags)
            free = isinstance(group.settings, ScheduleFreeSpec) and not group.frozen
            parts.append(averaged(group.settings, state[1][name], own) if free else own)  # pyright: ignore[reportArgumentType]
        return merge(parts)

    return found


def _plain(spec: OptimizerSpec, declared: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """One rule for all parameters."""
    rule = RULES[spec.kind](spec.value, declared, moments)

    def update(gradients: Tree, state: Any, params: Tree, **arguments: Any) -> tuple[Tree, Any]:
        return rule.update(gradients, state, params, **{"peak_rate": spec.learning_rate, **arguments})

    return transformation(rule.init, update)


def _by_group(spec: OptimizerSpec, model: CausalLM, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """A rule for each group that is trained. The state has the state of each rule under the number of its group; 0 is the rest."""
    groups = [(f"{n}", group) for n, group in enumerate(groups_of(spec, model)) if not group.frozen and jax.tree.leaves(group.parameters)]
    rules = {name: RULES[group.rule](group.settings, group.parameters, moments) for name, group in groups}
    flags = {name: _flags(group, model) for name, group in groups}

    def init(params: Tree) -> dict[str, Any]:
        return {name: rules[name].init(select(params, flags[name])) for name, _ in groups}

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, key: jax.Array | None, **further: Any
    ) -> tuple[Tree, dict[str, Any]]:
        changes: list[Tree] = [jax.tree.map(lambda _: None, gradients, is_leaf=is_named)]
        states: dict[str, Any] = {}
        for number, (name, group) in enumerate(groups):
            # A schedule of the decay scales the decay of every group.
            decay = (
                weight_decay if group.weight_decay == spec.weight_decay else _scaled(group.weight_decay, weight_decay, spec.weight_decay)
            )
            arguments: dict[str, Any] = {
                "learning_rate": learning_rate * group.rate_factor,
                "weight_decay": decay,
                "key": None if key is None else jax.random.fold_in(key, number),
                "peak_rate": spec.learning_rate * group.rate_factor,
                **further,
            }
            if (estimate := further.get("curvature")) is not None:
                arguments["curvature"] = functools.partial(_part_of, estimate, flags[name])
            own = select(gradients, flags[name]), state[name], select(params, flags[name])
            change, states[name] = rules[name].update(*own, **arguments)
            changes.append(change)
        return merge(changes), states

    return transformation(init, update)


def _part_of(estimate: Callable[[], Tree], flags: Tree) -> Tree:
    return select(estimate(), flags)


def _scaled(own: float, now: Scalar, base: float) -> Scalar:
    return own * (now / base) if base else own


def _flags(group: Group, model: CausalLM) -> Tree:
    """A bool in the place of each NamedArray of the model: whether it belongs to the group."""
    declared, structure = jax.tree.flatten(parameters(model))
    own = structure.flatten_up_to(group.parameters)
    return jax.tree.unflatten(structure, [one is not None for one, _ in zip(own, declared, strict=True)])
