"""The update of each parameter of a run, as plain values and as a table, for ``halcyon show optimizer``."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from halcyon.commands.views.tables import FittedTable
from halcyon.models import CausalLM
from halcyon.models.axes import is_named
from halcyon.models.parameters import dotted, parameters, split
from halcyon.optim.groups import Group, groups_of, paths
from halcyon.optim.rule import decaying
from halcyon_api.counting import size
from halcyon_api.spec.optimizer import OptimizerSpec

FROZEN = "frozen"
"""What stands in place of the rule of a parameter that is not trained."""


@dataclass(frozen=True)
class ParameterUpdate:
    """How a run updates a parameter.

    Attributes:
        path: Its dotted path.
        shape: Size of each of its axes by name.
        role: Its role.
        group: The name of its group.
        rule: Its update rule, or `FROZEN`.
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


def overview(spec: OptimizerSpec, model: CausalLM, state: Any, trained: Any = None) -> list[ParameterUpdate]:
    """The update of each parameter, in the order of the model.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model with its adapter, or its shapes.
        state: The optimizer state, or its shapes.
        trained: True in the place of each trained parameter (`halcyon.models.parameters`). None: all are trained.

    Raises:
        BadConfiguration: See `halcyon.optim.groups.groups_of`.
    """
    part = split(model, trained)[0]
    stored = _stored(state, paths(part))
    owners = {path: (group, decays) for group in groups_of(spec, part) for path, decays in _decays(group).items()}
    # The groups of frozen parameters are empty in the trained part.
    named = {path: group.name for group in groups_of(spec, model) if group.frozen for path in _decays(group)}
    rows: list[ParameterUpdate] = []
    leaves = zip(
        paths(model), jax.tree.leaves(model, is_leaf=is_named), jax.tree.leaves(parameters(model)), strict=True
    )
    for path, leaf, declared in leaves:
        update = named.get(path, FROZEN), FROZEN, 0.0, 0.0, 0
        if path in owners:
            group, decays = owners[path]
            decay = group.weight_decay if decays else 0.0
            update = group.name, group.rule, group.rate_factor, decay, stored[path]
        shape = {axis.name: axis.size for axis in leaf.axes}
        rows.append(ParameterUpdate(path, shape, declared.role.value, *update))
    return rows


def _stored(state: Any, names: list[str]) -> dict[str, int]:
    """Bytes of the state by the path of the parameter. A path of the state ends with that of its parameter."""
    sizes = dict.fromkeys(names, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state, is_leaf=is_named):
        place = dotted(path)
        owners = [name for name in names if place.endswith(f".{name}")]
        if owners and is_named(leaf):
            sizes[max(owners, key=len)] += math.prod(leaf.array.shape) * leaf.array.dtype.itemsize
    return sizes


def _decays(group: Group) -> dict[str, bool]:
    """Whether each parameter of a group decays, by its path."""
    return {dotted(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(decaying(group.parameters))}


def updates_table(rows: list[ParameterUpdate]) -> FittedTable:
    """A row for each parameter, and the bytes of the state of all."""
    numbers = "rate", "decay", "state"
    table = FittedTable("parameter", "shape", "role", "group", "rule", numbers=numbers, drops=("role", "shape"))
    for row in rows:
        shape = " x ".join(f"{name} {number}" for name, number in row.shape.items())
        numbers = f"{row.rate_factor:g}", f"{row.weight_decay:g}", size(row.state_bytes)
        table.add_row(row.path, shape, row.role, row.group, row.rule, *numbers)
    table.add_section()
    table.add_row("all", *[""] * 6, size(sum(row.state_bytes for row in rows)))
    return table
