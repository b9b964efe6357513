"""The table of fields that a run may take from its defaults (``units.yaml``), and the merge. Pure; accepts any
document, valid or not.

The unit of the merge is a row of the table. A unit is taken whole from the most specific document that sets it: a list,
or an object such as `checkpoint.save`, is never combined from two documents. Only a map is merged key by key, and the
list of variables by their names. No field that determines the mathematics of a run is in the table.

A document that sets the root (a run by `root`, defaults by `rootPrefix`) also decides its store. So if a document sets
the root, no store unit is taken from a less specific document, and no Secret is sent to the endpoint of another owner.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from halcyon_api.yaml_text import read_document

ROOT = "checkpoint.root"
PREFIX = "checkpoint.rootPrefix"
"""Used if no root is set: the root of run NAME in namespace NAMESPACE is PREFIX/NAMESPACE/NAME."""

Values = dict[str, Any]
"""Units that are set, by path, as JSON values."""


@dataclass(frozen=True)
class Unit:
    """A field, or an object or list that is taken whole."""

    path: str
    merged: bool = False
    """Whether it is a map, whose keys are merged."""
    named: bool = False
    """Whether it is a list whose entries are merged by name, each entry whole."""
    store: bool = False
    """Whether it belongs to the store of the checkpoint root."""


UNITS = tuple(
    Unit(path, **row)
    for path, row in read_document(Path(__file__).with_name("units.yaml").read_text(encoding="utf-8")).items()
)
"""In the order of the document."""

_OF_RUN = (*(unit.path for unit in UNITS), ROOT)
_OF_DEFAULTS = (*(unit.path for unit in UNITS), PREFIX)
_MERGED = frozenset(unit.path for unit in UNITS if unit.merged)
_NAMED = frozenset(unit.path for unit in UNITS if unit.named)
_PLACE = frozenset(unit.path for unit in UNITS if unit.store) | {ROOT, PREFIX}


def values_of_defaults(spec: object) -> Values:
    """The units that the ``spec`` of a TrainingRunDefaults sets."""
    return _values(spec, _OF_DEFAULTS)


def values_of_run(spec: object) -> Values:
    """The units that the ``spec`` of a run sets."""
    return _values(spec, _OF_RUN)


def merged(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> Values:
    """Two sets of units merged into one, the more specific set first."""
    rooted = ROOT in upper or PREFIX in upper
    found = {path: value for path, value in lower.items() if path not in _PLACE or not rooted}
    for path, value in upper.items():
        below = found.get(path)
        if path in _MERGED and isinstance(value, Mapping) and isinstance(below, Mapping):
            found[path] = {**cast("Values", below), **value}
        elif path in _NAMED and (own := _entries(value)) is not None and (others := _entries(below)) is not None:
            names = {name for name, _ in own}
            found[path] = [entry for _, entry in own] + [entry for name, entry in others if name not in names]
        else:
            found[path] = value
    return found


def kept_place(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> Values:
    """Fresh units, but the recorded root prefix and store units if the prefix has changed: the root of a run must not
    change.
    """
    if recorded.get(PREFIX) == fresh.get(PREFIX):
        return dict(fresh)
    place = {path: value for path, value in recorded.items() if path in _PLACE}
    return place | {path: value for path, value in fresh.items() if path not in _PLACE}


def resolved(spec: Mapping[str, Any], values: Mapping[str, Any], namespace: str, name: str) -> dict[str, Any]:
    """A run's ``spec`` with its defaults filled in. Values that the run sets are not changed, valid or not.

    Args:
        spec: ``spec`` of the run's document.
        values: The units of its defaults.
        namespace: Namespace of the run.
        name: Name of the run.
    """
    document = copy.deepcopy(dict(spec))
    own = values_of_run(spec)
    whole = merged(own, values)
    if ROOT not in whole and isinstance(prefix := whole.get(PREFIX), str):
        whole[ROOT] = f"{prefix.rstrip('/')}/{namespace}/{name}"
    for path, value in whole.items():
        if path != PREFIX and (path not in own or own[path] != value):
            _put(document, path, copy.deepcopy(value))
    return document


def _entries(value: Any) -> list[tuple[str, Any]] | None:
    """The entries of a list with their names; None for any other value."""
    if not isinstance(value, list):
        return None
    found: list[tuple[str, Any]] = []
    for entry in cast("list[object]", value):
        name = cast("Values", entry).get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            return None
        found.append((name, cast("Any", entry)))
    return found


def _values(spec: object, paths: tuple[str, ...]) -> Values:
    return {path: value for path in paths if (value := _at(spec, path)) is not None}


def _at(node: object, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(node, Mapping):
            return None
        node = cast("Mapping[str, object]", node).get(part)
    return node


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set a field, and create missing sections above it.

    If a section is not an object, do nothing: the schema rejects it later.
    """
    *sections, field = path.split(".")
    node: Any = document
    for section in sections:
        if not isinstance(node, dict):
            return
        node = cast("dict[str, Any]", node)
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
    if isinstance(node, dict):
        node[field] = value
