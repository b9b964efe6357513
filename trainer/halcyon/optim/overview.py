"""The update of each parameter of a run as plain values, for ``halcyon show optimizer``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from halcyon.models import CausalLM
from halcyon.models.axes import is_named
from halcyon.optim.groups import Group, groups_of, paths
from halcyon.optim.registry import build_optimizer
from halcyon.optim.rule import decaying
from halcyon_api.spec.optimizer import OptimizerSpec


@dataclass(frozen=True)
class ParameterUpdate:
    """How a run updates a parameter.

    Attributes:
        path: Its dotted path.
        shape: Size of each of its axes by name.
        role: Its role.
        group: The name of its group.
        rule: Its update rule, or ``frozen``.
        rate_factor: Factor of the learning rate.
        weight_decay: Its weight decay; 0 if it does not decay.
        state_bytes: Bytes of the arrays of the state that belong to it alone.
    """

    path: str
    shape: dict[str, int]
    role: str
    group: str
    rule: str
    rate_factor: float
    weight_decay: float
    state_bytes: int

    def document(self) -> dict[str, Any]:
        """The update as JSON."""
        return asdict(self)


def overview(spec: OptimizerSpec, model: CausalLM, moments: DTypeLike = jnp.float32) -> list[ParameterUpdate]:
    """The update of each parameter, in the order of the model.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, or its shapes.
        moments: Type in which the moments are stored.

    Raises:
        BadConfiguration: See `halcyon.optim.groups.groups_of`.
    """
    names = paths(model)
    state = jax.eval_shape(build_optimizer(spec, model, moments).init, model)
    stored = dict.fromkeys(names, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_named):
        place = jax.tree_util.keystr(path, simple=True, separator=".")
        # A path of the state ends with that of its parameter.
        owners = [name for name in names if place.endswith(f".{name}")]
        if owners and is_named(leaf):
            stored[max(owners, key=len)] += math.prod(leaf.array.shape) * leaf.array.dtype.itemsize
    rows = {path: row for group in groups_of(spec, model) for path, row in _rows(group, stored, model).items()}
    return [rows[name] for name in names]


def _rows(group: Group, stored: dict[str, int], model: CausalLM) -> dict[str, ParameterUpdate]:
    arrays = dict(zip(paths(model), jax.tree.leaves(model, is_leaf=is_named), strict=True))
    flags = dict(jax.tree_util.tree_leaves_with_path(decaying(group.parameters)))
    found: dict[str, ParameterUpdate] = {}
    for path, one in jax.tree_util.tree_leaves_with_path(group.parameters):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found[name] = ParameterUpdate(
            path=name,
            shape={axis.name: axis.size for axis in arrays[name].axes},
            role=one.role.value,
            group=group.name,
            rule="frozen" if group.frozen else group.rule,
            rate_factor=0.0 if group.frozen else group.rate_factor,
            weight_decay=group.weight_decay if flags[path] and not group.frozen else 0.0,
            state_bytes=stored[name],
        )
    return found
