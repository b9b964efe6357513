"""Adapters of a model: low-rank maps beside the frozen weights of linear maps (`halcyon.models.parts.low_rank`).

An adapter can stand beside each `Linear` whose weight has the role `Role.MATRIX`, and beside the three weights of
`Experts`. Embeddings, output heads, routers and convolutions have none. The weights of these maps are used only by a
call of their module, which adds the adapter; the one way to use such a weight alone is a custom model, and `check_used`
finds it.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.interpreters import partial_eval
from jaxtyping import PRNGKeyArray

from halcyon.host.errors import BadConfiguration
from halcyon.models.axes import BATCH, POSITION, VOCAB, is_named
from halcyon.models.dropout import site_seeds
from halcyon.models.model import CausalLM, Inputs
from halcyon.models.parameters import STACKED_AXES, Role, dotted, matching
from halcyon.models.parts.coded import Coded, fits, is_large
from halcyon.models.parts.experts import Experts
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.low_rank import LowRank
from halcyon.models.registry import build_model
from halcyon_api.spec.adapter import BASES, LoraSpec
from halcyon_api.spec.families.section import ModelSection

Model = TypeVar("Model", bound=CausalLM)

_FIELD = "spec.adapter.lora"
_SHOWN = 12
_TRACED = 8
"""Positions of the sequence with which `check_used` traces a model."""


def with_adapter(model: Model, spec: LoraSpec, key: PRNGKeyArray) -> Model:
    """`model` with a new adapter beside each weight that the targets match, and with its frozen weights as codes if
    there is a `base`. It computes what the model with these weights computes.

    Args:
        model: A model without adapters.
        spec: ``spec.adapter.lora`` of the run.
        key: Random key. Each adapter has a key of its own, by the path of its weight.

    Raises:
        BadConfiguration: A pattern matches no weight of a linear map, or an option cannot be used with experts.
    """
    model = with_codes(model, spec)
    there = dict(adaptable(model))
    for pattern in spec.targets:
        if not any(fnmatchcase(path, pattern) for path in there):
            raise BadConfiguration(
                f"{_FIELD}.targets: {pattern!r} matches no weight of a linear map of the model; its weights are "
                f"{_listed(list(there))}; correct the pattern"
            )
    chosen = {path: weight for path, weight in there.items() if _matches(path, spec.targets)}
    stacked_experts = next((path for path in chosen if chosen[path][2]), None)
    for name, is_set in (("dropout", spec.dropout > 0), ("dora", spec.dora)):
        if stacked_experts is not None and is_set:
            raise BadConfiguration(
                f"{_FIELD}.{name}: the targets match the weights of experts, {stacked_experts}, which have no {name}; "
                "leave it out, or give targets without experts"
            )

    def made(path: str) -> LowRank | None:
        if path not in chosen:
            return None
        weight, inputs, _ = chosen[path]
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return LowRank.init(weight, inputs, spec.rank, spec.scale, dropout=spec.dropout, dora=spec.dora, key=own)

    return _with_adapters(model, made)


def with_codes(model: Model, spec: LoraSpec) -> Model:
    """`model` with its large frozen weights as codes (`spec.base`); those that blocks do not divide keep their type."""
    base = spec.base
    if base is None:
        return model

    def changed(path: Any, node: Any) -> Any:
        for name, weight, inputs in _weights(node):
            own = f"{dotted(path)}.{name}"
            if (
                not isinstance(weight, Coded)
                and is_large(weight)
                and fits(base, inputs)
                and not _matches(own, spec.train_also)
            ):
                role = node.role if isinstance(node, Linear) else Role.EXPERT
                node = dataclasses.replace(node, **{name: Coded.of(base, weight, inputs, role)})
        return node

    return jax.tree_util.tree_map_with_path(changed, model, is_leaf=_is_map)


def base_note(model: CausalLM, spec: LoraSpec | None) -> str:
    """A sentence about the large frozen weights of a model that blocks do not divide; empty if there are none."""
    base = None if spec is None else spec.base
    if spec is None or base is None:
        return ""
    left = [
        path
        for path, (weight, inputs, _) in adaptable(model)
        if is_large(weight) and not (fits(base, inputs) or _matches(path, spec.train_also))
    ]
    why = f"blocks of {BASES[base].block} do not divide their last axis of inputs"
    return f"{_FIELD}.base: these weights keep their type, because {why}: {_listed(left)}." if left else ""


def check_adapter(model: ModelSection, lora: LoraSpec) -> None:
    """Check the patterns of an adapter on the shapes of a model. Initialises no device.

    Args:
        model: ``spec.model`` of the run.
        lora: ``spec.adapter.lora`` of the run.

    Raises:
        BadConfiguration: See `with_adapter` and `trained_with_adapter`.
    """
    trained_with_adapter(adapted_shapes(model, lora), lora.train_also)


def adapted_shapes(model: ModelSection, lora: LoraSpec | None) -> CausalLM:
    """The shapes of a model with its adapter, for one token and one position. Initialises no device."""

    def built() -> CausalLM:
        plain = build_model(model, Axis(VOCAB, 1), Axis(POSITION, 1), key=jax.random.key(0))
        return plain if lora is None else with_adapter(plain, lora, jax.random.key(0))

    return jax.eval_shape(built)


def without_adapter(model: Model) -> Model:
    """The base of a model, or of its shapes: without its adapters."""
    return _with_adapters(model, lambda path: None)


def has_adapter(model: CausalLM) -> bool:
    """Whether a model, or its shapes, has an adapter."""
    return any(_is_low_rank(node) for node in jax.tree.leaves(model, is_leaf=_is_low_rank))


def merged(model: Model) -> Model:
    """A model without adapters that computes what `model` computes: each adapter is added to its weight."""

    def plain(node: Any) -> Any:
        for weight, name in _places(node).items():
            adapter: LowRank | None = getattr(node, name)
            if adapter is not None:
                node = dataclasses.replace(node, **{weight: adapter.merged(getattr(node, weight)), name: None})
        return node

    return jax.tree.map(plain, model, is_leaf=_is_map)


def trained_with_adapter(model: CausalLM, also: Sequence[str] = ()) -> Any:
    """`model` with True in the place of each NamedArray that is trained, else False; for
    `halcyon.models.parameters.split`.

    Args:
        model: A model with adapters, which are trained.
        also: Patterns of further parameters that are trained.

    Raises:
        BadConfiguration: A pattern matches no parameter.
    """
    paths = [
        dotted(path)
        for path, _ in jax.tree_util.tree_flatten_with_path(without_adapter(model), is_leaf=_is_parameter)[0]
    ]
    for pattern in also:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise BadConfiguration(
                f"{_FIELD}.trainAlso: {pattern!r} matches no parameter; the parameters are {_listed(paths)}"
            )
    further = matching(model, [*also, *([] if model.score is None else ["score.*"])])
    return jax.tree.map(
        lambda node, flags: (
            flags if is_named(node) else jax.tree.map(lambda _: _is_low_rank(node), node, is_leaf=is_named)
        ),
        model,
        further,
        is_leaf=lambda node: _is_low_rank(node) or _is_parameter(node),
    )


def with_dropout(model: Model, seeds: jax.Array) -> Model:
    """`model` with the dropout masks of one microbatch. A model whose adapters have no dropout stays as it is.

    Args:
        model: A model with adapters.
        seeds: One number for each sequence of the microbatch: uint32 [batch].
    """

    def of_adapter(path: Any, node: Any) -> Any:
        if not isinstance(node, LowRank) or not node.dropout:
            return node
        stacked = tuple(axis for axis in node.down.axes if axis.name in STACKED_AXES)
        return dataclasses.replace(node, seeds=site_seeds(seeds, dotted(path), stacked))

    return jax.tree_util.tree_map_with_path(of_adapter, model, is_leaf=_is_low_rank)


def adaptable(model: CausalLM) -> Iterator[tuple[str, tuple[NamedArray | Coded, tuple[Axis, ...], bool]]]:
    """The weights that can have an adapter, by path: the weight, its inputs, and whether it is of experts."""
    for path, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_map)[0]:
        for name, weight, inputs in _weights(node):
            yield f"{dotted(path)}.{name}", (weight, inputs, isinstance(node, Experts))


def adapter_path(path: str) -> str:
    """The path of the adapter of a weight, by the path of the weight."""
    owner, _, name = path.rpartition(".")
    return f"{owner}.adapter" if name == "weight" else f"{owner}.{name}_adapter"


def check_used(model: CausalLM) -> None:
    """Check that a model of a user computes its adapters. Traces the model.

    Raises:
        BadConfiguration: It reads the weight of a linear map instead of calling the map, so the adapter would have no
            effect.
    """
    leaves, structure = jax.tree.flatten(model)
    paths = [dotted(path) for path, _ in jax.tree_util.tree_flatten_with_path(model)[0]]

    def features(leaves: Sequence[jax.Array]) -> jax.Array:
        tokens = hax.zeros(
            (Axis(BATCH, 1), model.max_position.resize(min(_TRACED, model.max_position.size))), dtype=jnp.int32
        )
        return jax.tree.unflatten(structure, leaves)(Inputs(tokens)).features.array

    traced = jax.make_jaxpr(features)(leaves)
    used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))[1]
    adapters = {adapter_path(path) for path, _ in adaptable(model)}
    for path, is_used in zip(paths, used, strict=True):
        owner = next((one for one in adapters if path.startswith(f"{one}.")), None)
        if owner is not None and not is_used:
            raise BadConfiguration(
                f"{_FIELD}.targets: the model does not compute the adapter {owner}, because it reads the weight "
                "instead of calling the linear map; call the map, or leave its weight out of the targets"
            )


def _with_adapters(model: Model, choose: Callable[[str], LowRank | None]) -> Model:
    """`model` with the adapters that a function gives, by the path of the weight."""

    def changed(path: Any, node: Any) -> Any:
        adapters = {name: choose(f"{dotted(path)}.{weight}") for weight, name in _places(node).items()}
        return dataclasses.replace(node, **adapters) if adapters else node

    return jax.tree_util.tree_map_with_path(changed, model, is_leaf=_is_map)


def _weights(node: Any) -> Iterator[tuple[str, NamedArray | Coded, tuple[Axis, ...]]]:
    """The fields of a map with the weights that can have an adapter, the weights, and their inputs."""
    for name in _places(node):
        with_experts = isinstance(node, Experts)
        yield (
            name,
            getattr(node, name),
            (node.mlp if name == "down" else node.embed,) if with_experts else node.inputs,
        )


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _places(node: Any) -> dict[str, str]:
    """The fields of a map with the weights that can have an adapter, and those of their adapters."""
    if isinstance(node, Experts):
        return {name: f"{name}_adapter" for name in ("gate", "up", "down")}
    return {"weight": "adapter"} if isinstance(node, Linear) and node.role is Role.MATRIX else {}


def _is_map(node: Any) -> bool:
    return isinstance(node, Linear | Experts)


def _is_parameter(node: Any) -> bool:
    return isinstance(node, NamedArray | Coded)


def _is_low_rank(node: Any) -> bool:
    return isinstance(node, LowRank)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
