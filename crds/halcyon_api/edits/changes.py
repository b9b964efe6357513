"""The differences between two states of a run's spec, by field, with the class of each field."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from halcyon_api.edits.classes import EditClass, Leaf, class_of, leaves_of, starts_again
from halcyon_api.status.requests import MAX_VALUE
from halcyon_api.training_run import TrainingRunSpec

_LONGEST_VALUE = 80

Values = dict[str, Any]
"""Fields that are not at their default, by path, as JSON values."""

_LEAVES = {leaf.path: leaf for leaf in leaves_of(TrainingRunSpec)}
_PLACES = {path: place for place, path in enumerate(_LEAVES)}
"""The places of the fields in the order of the document."""


def _tree(leaves: Iterable[Leaf]) -> dict[str, Any]:
    """The leaves as nested dictionaries with the sections' names as keys, in the order of the document."""
    whole: dict[str, Any] = {}
    for leaf in leaves:
        *sections, name = leaf.path.split(".")
        section = whole
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = leaf
    return whole


_TREE = _tree(_LEAVES.values())


@dataclass(frozen=True)
class Change:
    """One field that differs."""

    path: str
    old: Any
    """None: not set."""
    new: Any

    @property
    def edit(self) -> EditClass:
        """The class of the field."""
        return class_of(self.path)

    @property
    def starts_again(self) -> bool:
        """Whether this edit starts a stopped run again."""
        return starts_again(self.path)

    def __str__(self) -> str:
        return f"{self.path} is {shown(self.new)} but was {shown(self.old)}"


def values_of(spec: TrainingRunSpec) -> Values:
    """All fields of a spec that are not at their default."""
    return {leaf.path: value for leaf, value in _present(_TREE, spec.document()) if value != leaf.default}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """The fields that differ, in the order of the document. Fields that this version does not know are ignored."""
    # A field in neither state has its default in both, so only the few fields of the two states are compared.
    known = (_LEAVES[path] for path in {*old, *new} if path in _LEAVES)
    differing = [
        Change(leaf.path, before, after)
        for leaf in known
        if (before := old.get(leaf.path, leaf.default)) != (after := new.get(leaf.path, leaf.default))
    ]
    return tuple(sorted(differing, key=lambda change: _PLACES[change.path]))


def recorded(values: Mapping[str, Any]) -> dict[str, str]:
    """The editable fields in the form of ``status.inForce``. A value that is too long is replaced by its hash."""
    texts = {
        path: json.dumps(value, sort_keys=True, ensure_ascii=False)
        for path, value in values.items()
        if class_of(path) != "frozen"
    }
    return {path: text if len(text) <= MAX_VALUE else json.dumps(_digest(text)) for path, text in texts.items()}


def _digest(text: str) -> str:
    return f"{len(text)} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"


def shown(value: Any) -> str:
    """A value as text for a sentence."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) and value else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _present(tree: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[tuple[Leaf, Any]]:
    """The fields that a document has, and their values.

    Skips the sections that it lacks: it has few of the hundreds of fields.
    """
    for name, below in tree.items():
        value = document.get(name)
        if isinstance(below, Leaf):
            if value is not None:
                yield below, value
        elif isinstance(value, dict):
            yield from _present(below, value)  # pyright: ignore[reportUnknownArgumentType]
