"""Rotary positions in config.json, in both forms.

Since version 5, transformers writes ``rope_parameters`` with the base and the scaling. Before, it wrote ``rope_theta`` and
``rope_scaling``, and readers of that form take their own default in silence if ``rope_theta`` is missing. So both forms are read, the new
one first, and both are written. Families whose kinds of layers have different rotary positions have one object for each kind in
``rope_parameters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halcyon.errors import BadConfiguration
from halcyon.models.weights.config import ConfigReader

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
_TYPE, _FORMER_TYPE, _THETA = "rope_type", "type", "rope_theta"


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a config.json.

    Attributes:
        theta: Base of the frequencies.
        kind: ``default``, ``linear``, ``llama3``, ``yarn`` or another name of ``rope_type``.
        settings: The other entries, such as ``factor``, by their names in config.json.
        nested: Whether they are those of one kind of layers, in an object of their own.
    """

    theta: float
    kind: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = False

    @property
    def entries(self) -> dict[str, Any]:
        """The object of ``rope_parameters``."""
        return {_TYPE: self.kind, _THETA: self.theta, **self.settings}


def read_rope(config: ConfigReader, default_theta: float, layer_type: str | None = None) -> Rope:
    """The rotary positions of a model.

    Args:
        config: The config.json.
        default_theta: The base if no key has it: the default of the class in transformers.
        layer_type: The kind of layers, if ``rope_parameters`` may have an object for each kind.

    Raises:
        BadConfiguration: A value has the wrong type, or both forms are there and disagree.
    """
    found = config.inner("rope_parameters")
    nested = found is not None and layer_type is not None and bool(set(found.document) & set(LAYER_TYPES))
    if found is not None and layer_type is not None and nested:
        found = found.inner(layer_type) or found.empty()
    former = config.inner("rope_scaling")
    if found is not None and found.document and former is not None and former.document:
        _require_equal(config, found, former)
    scaling = found if found is not None and found.document else former or config.empty()
    kind = _kind(scaling)
    theta = scaling.number(_THETA, config.number(_THETA, default_theta))
    settings = {name: value for name, value in scaling.document.items() if name not in (_TYPE, _FORMER_TYPE, _THETA)}
    return Rope(theta, kind, settings, nested)


def _kind(scaling: ConfigReader) -> str:
    return scaling.text(_TYPE, scaling.text(_FORMER_TYPE, "default"))


def _require_equal(config: ConfigReader, new: ConfigReader, former: ConfigReader) -> None:
    """Reject a file whose two forms say different things: readers differ in which one they take."""
    names = [name for name in new.document if name not in (_TYPE, _FORMER_TYPE) and new.has(name) and former.has(name)]
    pairs = {_TYPE: (_kind(new), _kind(former)), **{name: (new.document[name], former.document[name]) for name in names}}
    for name, (one, other) in pairs.items():
        if one != other:
            raise BadConfiguration(
                f"{config.where}: {name} is {one} in rope_parameters and {other} in rope_scaling; correct the wrong one, or leave it out"
            )


def require_rope(config: ConfigReader, rope: Rope, *kinds: str) -> Rope:
    """Return `rope` if its kind is one of `kinds`.

    Raises:
        BadConfiguration: The family does not compute this kind.
    """
    if rope.kind not in kinds:
        raise BadConfiguration(
            f"{config.where}: rope_type is {rope.kind}, but Halcyon computes this model only with {' or '.join(kinds)}; take another model"
        )
    return rope


def write_rope(rope: Rope, *, always: bool = False) -> dict[str, Any]:
    """The entries of config.json, in both forms.

    Args:
        rope: The rotary positions.
        always: Whether ``rope_scaling`` has an object for the kind ``default`` too, because its absence has another meaning.
    """
    scaling = None if rope.kind == "default" and not always else {_TYPE: rope.kind, **rope.settings}
    return {"rope_parameters": rope.entries, _THETA: rope.theta, "rope_scaling": scaling}
