"""``--set PATH=VALUE``: changes of single fields of a run document, typed by the schema. Pure.

A path has the field names of the document, such as ``spec.optimizer.learningRate``. Entries of a list have a number
from 0: ``spec.data.sources[0].weight``. The value is YAML, except for a field that is a text. ``null`` removes a field.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from halcyon_api.base import InvalidRun, fields_by_name
from halcyon_api.counting import counted
from halcyon_api.sentences import did_you_mean, meant_field, sentences
from halcyon_api.training_run import TrainingRun
from halcyon_api.yaml_text import InvalidYaml, read_document

_PART = re.compile(r"([A-Za-z][A-Za-z0-9]*)|\[([0-9]{1,6})\]|\.([0-9]{1,6})(?![A-Za-z0-9])|\.")
_METADATA = ("name", "namespace")
_SCALARS: set[Any] = {str, int, float, bool}
_MODEL_FILE = ("spec.model.family", "spec.model.configFile")

Part = str | int


@dataclass(frozen=True)
class Override:
    """A new value of one field."""

    path: str
    parts: tuple[Part, ...]
    value: Any
    """As JSON; None removes the field."""


def parse_override(text: str) -> Override:
    """The override of ``PATH=VALUE``.

    Raises:
        InvalidRun: There is no such field, or the value is of a wrong type.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise InvalidRun(f"--set {text}: write PATH=VALUE, such as spec.trainer.steps=100")
    path = path.strip()
    parts = _parts(path)
    field = _type_at(path, parts)
    kinds = set(_kinds(field))
    try:
        read = read_document(value)
    except InvalidYaml as error:
        raise InvalidRun(f"{path}: the value is {error}") from None
    if kinds <= {str} and not value.lstrip().startswith(('"', "'")) and value.strip() not in ("null", "~"):
        read = value.strip()
    return _checked(path, parts, field, read)


def override(path: str, value: Any) -> Override:
    """The override of a path by a value that is JSON already.

    Raises:
        InvalidRun: There is no such field, or the value is of a wrong type.
    """
    parts = _parts(path)
    return _checked(path, parts, _type_at(path, parts), value)


def names_model_file(change: Override) -> bool:
    """Whether a change must be made before the model of a config.json is read."""
    return change.path in _MODEL_FILE


def with_overrides(document: Any, overrides: Sequence[Override]) -> Any:
    """A copy of the document with new values, in their order.

    Raises:
        InvalidRun: A list is shorter than an index.
    """
    found = copy.deepcopy(document)
    for change in overrides:
        if not isinstance(found, dict):
            return found
        _put(cast("dict[str, Any]", found), change)
    return cast("Any", found)


def _parts(path: str) -> tuple[Part, ...]:
    found: list[Part] = []
    end = 0
    while end < len(path):
        match = _PART.match(path, end)
        if match is None:
            raise InvalidRun(
                f"{path}: not a path; write the names of fields with dots between them, such as spec.trainer.steps"
            )
        end = match.end()
        name, index, numbered = match.groups()
        if name is not None:
            found.append(name)
        elif index is not None or numbered is not None:
            found.append(int(index or numbered))
    if (
        not found
        or found[0] not in ("spec", "metadata")
        or len(found) < 2
        or (found[0] == "metadata" and found[1] not in _METADATA)
    ):
        raise InvalidRun(f"{path}: only fields of spec, metadata.name and metadata.namespace can be set")
    return tuple(found)


def _type_at(path: str, parts: Sequence[Part]) -> Any:
    """The type of the field at a path, with its bounds."""
    current: Any = TrainingRun
    for depth, part in enumerate(parts):
        above = _written(parts[:depth])
        models = [kind for kind in _kinds(current) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        entries = next((get_args(kind)[0] for kind in _kinds(current) if get_origin(kind) is list), None)
        if isinstance(part, int):
            if entries is None:
                raise InvalidRun(f"{path}: {above} is not a list, so it has no entry {part}")
            current = entries
            continue
        if not models:
            what = f"has no field {part}" if entries is None else "is a list; write the number of an entry, such as [0]"
            raise InvalidRun(f"{path}: {above} {what}")
        fields = list(dict.fromkeys(name for model in models for name in fields_by_name(model)))
        if part not in fields:
            near = meant_field(TrainingRun, (*parts[:depth], part))
            meant = f"there are {', '.join(fields)}" if near is None else did_you_mean(part, _written(near))
            raise InvalidRun(f"{path}: unknown field; {meant}")
        current = _any_of([fields_by_name(model)[part] for model in models if part in fields_by_name(model)])
    return current


def _any_of(fields: Sequence[FieldInfo]) -> Any:
    """The type of a field of some models: of several if the families of models bound it differently."""
    types = [Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation for field in fields]
    return types[0] if all(each == types[0] for each in types) else Union[tuple(types)]  # noqa: UP007 - the types are known when it runs


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, without None. The values of a Literal count as their types."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif annotation is not type(None):
        yield annotation


def _checked(path: str, parts: tuple[Part, ...], field: Any, value: Any) -> Override:
    if value is not None:
        try:
            # Sections have a strict configuration of their own; strict here would also refuse a mapping in place of
            # their class.
            strict = True if set(_kinds(field)) <= _SCALARS else None
            TypeAdapter(field).validate_python(value, strict=strict, by_alias=True, by_name=False)
        except ValidationError as error:
            faults: list[Mapping[str, Any]] = [{**fault, "loc": (*parts, *fault["loc"])} for fault in error.errors()]
            found = "; ".join(sentences(TrainingRun, faults)).replace("; take the quotes away", "")
            raise InvalidRun(found) from None
    return Override(path, parts, value)


def _put(document: dict[str, Any], change: Override) -> None:
    node: Any = document
    for depth, part in enumerate(change.parts[:-1]):
        if isinstance(part, int):
            node = _entry(node, change, depth)
            continue
        if not isinstance(node.get(part), dict | list):
            if change.value is None:
                return
            node[part] = [] if isinstance(change.parts[depth + 1], int) else {}
        node = node[part]
    last = change.parts[-1]
    if isinstance(last, int):
        _entry(node, change, len(change.parts) - 1)
    if change.value is not None:
        node[last] = change.value
    elif isinstance(last, int) or last in node:
        del node[last]


def _entry(node: Any, change: Override, depth: int) -> Any:
    """The entry of a list in the document."""
    index = cast("int", change.parts[depth])
    if not isinstance(node, list) or index >= len(cast("list[Any]", node)):
        count = len(cast("list[Any]", node)) if isinstance(node, list) else 0
        raise InvalidRun(
            f"{change.path}: {_written(change.parts[:depth])} has {counted(count, 'entry', 'entries')}, counted from "
            f"0, so there is no [{index}]"
        )
    return cast("Any", node[index])


def _written(parts: Sequence[Part]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
