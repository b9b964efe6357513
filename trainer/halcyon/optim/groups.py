"""Groups of parameters that an update treats in the same way, by their roles and the patterns of their paths.

Patterns are those of `fnmatch` over dotted paths with the field names of the model, such as
``blocks.stacked.attention.query.weight``. A parameter that no group names belongs to the rest, which has the settings
of ``spec.optimizer``.
"""

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax

from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM
from halcyon.models.adapters import adapted_shapes, trained_with_adapter
from halcyon.models.axes import is_named
from halcyon.models.parameters import Parameter, dotted, parameters, split
from halcyon.optim.rule import select
from halcyon_api.base import ApiModel
from halcyon_api.spec.adapter import LoraSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.optimizer import GroupSpec, InvalidGroup, OptimizerSpec

REST = "rest"
"""Name of the group of the parameters that no group of the document names."""
_FIELD = "spec.optimizer.groups"
_SHOWN = 3


@dataclass(frozen=True)
class Group:
    """Parameters with the same settings.

    Attributes:
        name: Its name in messages.
        rule: The name of its rule.
        settings: The settings of its rule.
        rate_factor: Factor of the learning rate.
        weight_decay: Its weight decay.
        decay_follows: Whether a schedule of the run's weight decay scales it.
        momentum_follows: Whether a schedule of the run's momentum applies to it.
        frozen: Whether its parameters are not trained.
        parameters: The model with the `Parameter` of each of its NamedArrays, and None in all other places.
    """

    name: str
    rule: str
    settings: ApiModel
    rate_factor: float
    weight_decay: float
    decay_follows: bool
    momentum_follows: bool
    frozen: bool
    parameters: Any


def paths(model: CausalLM) -> list[str]:
    """The dotted path of each NamedArray, in the order of the model."""
    return [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_named)]


def groups_of(spec: OptimizerSpec, model: CausalLM) -> tuple[Group, ...]:
    """The rest, and the groups of the document in their order.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, its shapes, or its trained part. In the trained part, frozen groups are empty.

    Raises:
        BadConfiguration: A group has no parameter, two groups have the same one, or a rule does not take a setting of
            its group.
    """
    leaves, structure = jax.tree.flatten(parameters(model))
    groups = spec.groups or ()
    owner = _owners(groups, paths(model), leaves)

    def members_of(number: int | None, *, all_decay: bool) -> Any:
        kept = [dataclasses.replace(one, decays=True) if all_decay else one for one in leaves]
        flags = jax.tree.unflatten(structure, [owner.get(index) == number for index in range(len(leaves))])
        return select(jax.tree.unflatten(structure, kept), flags)

    rest = _group(spec, GroupSpec(match="*"), None, members_of)
    return (rest, *(_group(spec, group, number, members_of) for number, group in enumerate(groups)))


def trained(spec: OptimizerSpec, model: CausalLM, lora: LoraSpec | None = None) -> Any | None:
    """`model` with a bool in the place of each NamedArray: whether it is trained (`halcyon.models.parameters`). None if
    all are.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model with its adapter, or its shapes.
        lora: ``spec.adapter.lora`` of the run. None: it has no adapter.

    Raises:
        BadConfiguration: See `groups_of`; or no parameter is trained.
    """
    flags = None if lora is None else trained_with_adapter(model, lora.train_also)
    if not any(group.frozen for group in spec.groups or ()):
        return flags
    frozen: set[str] = set()
    for number, group in enumerate(groups_of(spec, model)[1:]):
        if group.frozen:
            members = {dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(group.parameters)}
            if not members:
                raise BadConfiguration(_no_member(number, (spec.groups or ())[number], paths(model)))
            frozen |= members
    beside = jax.tree.leaves(flags) if flags is not None else [True] * len(paths(model))
    both = [flag and path not in frozen for flag, path in zip(beside, paths(model), strict=True)]
    if not any(both):
        raise BadConfiguration(
            f"{_FIELD}: all parameters are frozen, so nothing is trained; leave some out of the frozen groups"
        )
    return jax.tree.unflatten(jax.tree.structure(parameters(model)), both)


def check_groups(model: ModelSection, optimizer: OptimizerSpec, lora: LoraSpec | None) -> None:
    """Check the groups of a run on the shapes of its model. Initialises no device.

    Args:
        model: ``spec.model`` of the run.
        optimizer: ``spec.optimizer`` of the run.
        lora: ``spec.adapter.lora`` of the run. None: it has no adapter.

    Raises:
        BadConfiguration: See `groups_of` and `trained`.
    """
    shapes = adapted_shapes(model, lora)
    groups_of(optimizer, split(shapes, trained(optimizer, shapes, lora))[0])


def _owners(groups: Any, names: list[str], leaves: list[Parameter]) -> dict[int, int]:
    """The number of the group of each parameter that is in one, by the number of the parameter."""
    owner: dict[int, int] = {}
    for number, group in enumerate(groups):
        members = [index for index, (path, one) in enumerate(zip(names, leaves, strict=True)) if _has(group, path, one)]
        if not members and not group.frozen:
            raise BadConfiguration(_no_member(number, group, names))
        for index in members:
            other = owner.setdefault(index, number)
            if other != number:
                raise BadConfiguration(
                    f"{_FIELD}[{number}]: {names[index]} is also in groups[{other}] ({_selection(groups[other])}); "
                    "change one of the selections, so that each parameter is in one group"
                )
    return owner


def _group(spec: OptimizerSpec, group: GroupSpec, number: int | None, members_of: Any) -> Group:
    rule = group.rule or spec.kind
    try:
        settings = spec.settings_of(group)
    except InvalidGroup as error:
        raise BadConfiguration(f"{_FIELD}[{number}].{error.field}: {error}") from None
    return Group(
        name=REST if number is None else f"groups[{number}]",
        rule=rule,
        settings=settings,
        rate_factor=1.0 if group.learning_rate is None else group.learning_rate,
        weight_decay=spec.weight_decay if group.weight_decay is None else group.weight_decay,
        decay_follows=rule == spec.kind,
        momentum_follows=rule == spec.kind and group.beta1 is None,
        frozen=bool(group.frozen),
        parameters=members_of(number, all_decay=group.weight_decay is not None),
    )


def _has(group: GroupSpec, path: str, one: Parameter) -> bool:
    by_path = group.match is None or fnmatchcase(path, group.match)
    return by_path and (group.roles is None or one.role.value in group.roles)


def _selection(group: GroupSpec) -> str:
    parts = [f"match {group.match}"] if group.match is not None else []
    return " and ".join([*parts, *([f"roles {', '.join(group.roles)}"] if group.roles is not None else [])])


def _no_member(number: int, group: GroupSpec, names: list[str]) -> str:
    shown = ", ".join(names[:: max(1, len(names) // _SHOWN)][:_SHOWN])
    return (
        f"{_FIELD}[{number}]: no parameter has {_selection(group)}; the paths are such as {shown}, and "
        "`halcyon show optimizer RUN.YAML` lists all of them with their roles; correct the selection"
    )
