"""YAML as Kubernetes reads it, so that a document means the same on a laptop and with ``kubectl apply``.

kubectl converts YAML to JSON before it sends it, by the rules of sigs.k8s.io/yaml, which differ from those of PyYAML:
``3e-4`` is a number, ``1:30`` and ``2001-01-01`` are strings, ``y`` is true, ``1.0`` is the integer 1. This module
applies those rules to the tree that libyaml parses, and writes YAML that both read in the same way. One rule is
stricter: if a key is given twice, kubectl silently keeps the last value, but this module rejects the document. Values
on which other readers of YAML disagree are not rejected, because kubectl takes documents with them.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import yaml

Scalar = str | int | float | bool | None

MAX_NODES = 200_000
"""Maximum number of values of one document. A value that aliases repeat counts each time."""
MAX_DEPTH = 100
"""Maximum nesting depth of a document."""

_TAG = "tag:yaml.org,2002:"
_STR, _NULL, _BOOL, _INT, _FLOAT, _TIMESTAMP = (
    _TAG + name for name in ("str", "null", "bool", "int", "float", "timestamp")
)
_MERGE, _BINARY, _MAP, _SEQ = (_TAG + name for name in ("merge", "binary", "map", "seq"))
_RESOLVED = {_NULL, _BOOL, _INT, _FLOAT, _TIMESTAMP}


def _cases(*words: str) -> Iterable[str]:
    return (form for word in words for form in (word, word.capitalize(), word.upper()))


_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(_cases("y", "yes", "true", "on"), True),
    **dict.fromkeys(_cases("n", "no", "false", "off"), False),
    **dict.fromkeys(("", "~", *_cases("null")), None),
    **{sign + form: float(sign + "inf") for sign in ("", "+", "-") for form in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_FLOAT_TEXT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIMESTAMP_TEXT = re.compile(r"\d{4}-\d\d?-\d\d?([Tt ]\s*\d\d?:\d\d?:\d\d?.*)?")
_INTEGER_TEXT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_INT64 = range(-(1 << 63), 1 << 63)


_compose_all = cast("Callable[..., Iterator[yaml.Node]]", cast("Any", yaml).compose_all)


_LONGEST_INTEGER = 128
"""Characters of the longest text that can be a whole number of 64 bits, with room for zeros; a longer one is read as a
fraction.
"""


class InvalidYaml(ValueError):
    """The text is not YAML that Kubernetes accepts. The message is one sentence without the file name."""


def read_documents(text: str) -> list[Any]:
    """The documents of a YAML or JSON text, as JSON values. Empty documents are left out.

    Raises:
        InvalidYaml: The text is not YAML, a key is given twice, or a value has no JSON form.
    """
    if text.lstrip().startswith("{"):
        found = _json(text)
        if found is not None:
            return [found]
    try:
        nodes: list[yaml.Node] = list(_compose_all(text, Loader=_Loader))
    except RecursionError:
        raise InvalidYaml(f"nested deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError as error:
        raise InvalidYaml(f"not YAML: {_parse_error(error)}") from None
    values = [_Reading().value(node, "", 0) for node in nodes]
    return [value for value in values if value is not None]


def read_document(text: str) -> Any:
    """The one document of a text; None if the text is empty.

    Raises:
        InvalidYaml: As `read_documents`, or the text has several documents.
    """
    documents = read_documents(text)
    if len(documents) > 1:
        raise InvalidYaml(f"{len(documents)} documents where one is expected")
    return documents[0] if documents else None


def dump(document: Any) -> str:
    """A JSON value as YAML that Kubernetes and PyYAML read in the same way."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_all(documents: Iterable[Any]) -> str:
    """Several JSON values as YAML documents."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def resolve_plain(text: str) -> tuple[str, Scalar]:
    """Tag and value of a scalar without quotes, by the rules of Kubernetes."""
    if text in _CONSTANTS:
        value = _CONSTANTS[text]
        return (_NULL if value is None else _BOOL if isinstance(value, bool) else _FLOAT), value
    if text[:1] in "+-.0123456789":
        if _TIMESTAMP_TEXT.fullmatch(text):
            return _TIMESTAMP, text  # Kubernetes keeps the text of a timestamp
        return _number(text.replace("_", ""), text)
    return _STR, text


def _number(plain: str, text: str) -> tuple[str, Scalar]:
    if not plain.isascii():
        return _STR, text
    integer = _INTEGER_TEXT.fullmatch(plain)
    if integer is not None and len(plain) <= _LONGEST_INTEGER:
        sign, hexadecimal, binary, octal, decimal = integer.groups()
        value = int(
            hexadecimal or binary or octal or decimal, 16 if hexadecimal else 2 if binary else 8 if octal else 10
        )
        value = -value if sign == "-" else value
        if value in _INT64 or 0 <= value < 1 << 64:
            return _INT, value
    if _FLOAT_TEXT.fullmatch(plain):
        value = float(plain)
        if not math.isinf(value):  # a number outside the range stays a string
            return _FLOAT, value
    return _STR, text


def _json_number(value: int | float) -> int | float:
    """A number as it is read from JSON text: a whole number within 64 bits is an int, any other is a float."""
    if isinstance(value, int) and value in _INT64:
        return value
    value = float(value)
    written = (
        int(Decimal(repr(value))) if value.is_integer() else None
    )  # JSON contains the shortest text of the float, which repr gives
    return value if written is None or written not in _INT64 else written


if TYPE_CHECKING:
    _ParserBase = yaml.SafeLoader
else:
    _ParserBase = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it


class _Loader(_ParserBase):
    """PyYAML's parser. The tags of plain scalars follow the rules of Kubernetes."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The tag of a node that has none."""
        if kind is yaml.ScalarNode:
            return (_MERGE if value == "<<" else resolve_plain(value)[0]) if implicit[0] else _STR
        return _SEQ if kind is yaml.SequenceNode else _MAP


class _Dumper(yaml.SafeDumper):
    """Puts quotes around a string that Kubernetes or PyYAML would read as another type."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The tag that a reader would give a node without quotes."""
        tag = str(cast("Any", super()).resolve(kind, value, implicit))
        if kind is yaml.ScalarNode and implicit[0] and tag == _STR:
            return resolve_plain(value)[0]
        return tag

    def ignore_aliases(self, data: Any) -> bool:
        """Write a repeated value each time, without aliases."""
        del data
        return True


class _Reading:
    """The values of one document."""

    def __init__(self) -> None:
        self._nodes = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        """The JSON value of a node; ``path`` is its location, such as ``.spec.trainer``.

        Raises:
            InvalidYaml: The node has no JSON value.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidYaml(f"more than {MAX_NODES} values, with those that aliases repeat")
        if depth > MAX_DEPTH:
            raise InvalidYaml(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            items = cast("list[yaml.Node]", node.value)
            return [self.value(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(items)]
        return self._scalar(cast("yaml.ScalarNode", node), path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if key_node.tag == _MERGE:
                found |= self._merged(value_node, path, depth)
                continue
            key, line = self._key(key_node, path), key_node.start_mark.line + 1
            if key in lines:
                place = f"line {line}" if line == lines[key] else f"lines {lines[key]} and {line}"
                raise InvalidYaml(f"{_where(f'{path}.{key}')}: given twice, in {place}; keep one of them")
            lines[key] = line
            found[key] = self.value(value_node, f"{path}.{key}", depth + 1)
        return found

    def _merged(self, node: yaml.Node, path: str, depth: int) -> dict[str, Any]:
        """The entries that ``<<`` merges. If several mappings have a key, the first one wins."""
        parts = cast("list[yaml.Node]", node.value) if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in reversed(parts):
            if not isinstance(part, yaml.MappingNode):
                raise InvalidYaml(
                    f"{_where(path)}: << takes a mapping or a list of mappings, in line {part.start_mark.line + 1}"
                )
            found |= self.value(part, path, depth + 1)
        return found

    def _key(self, node: yaml.Node, path: str) -> str:
        value = None if not isinstance(node, yaml.ScalarNode) else self._scalar(node, path)
        if value is None:
            raise InvalidYaml(f"{_where(path)}: the key in line {node.start_mark.line + 1} must be a text")
        return value if isinstance(value, str) else json.dumps(value)

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Scalar:
        text, tag = str(node.value), str(node.tag)
        if tag == _BINARY:
            try:
                return base64.b64decode("".join(text.split()), validate=True).decode()
            except ValueError:
                raise InvalidYaml(
                    f"{_where(path)}: !!binary takes a text in base64, in line {node.start_mark.line + 1}"
                ) from None
        if tag not in _RESOLVED:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidYaml(
                    f"{_where(path)}: an unpaired surrogate is not a character, in line {node.start_mark.line + 1}"
                )
            return text
        found, value = resolve_plain(text)
        if found == _INT and tag == _FLOAT:
            found = _FLOAT
        if found != tag:
            raise InvalidYaml(
                f"{_where(path)}: {text!r} is no {tag.removeprefix(_TAG)}, in line {node.start_mark.line + 1}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidYaml(
                f"{_where(path)}: {text} is no number that JSON has; give a finite one, in line "
                f"{node.start_mark.line + 1}"
            )
        return _json_number(value)


def _json(text: str) -> Any:
    """The value of a JSON text; None if the text is not JSON."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidYaml(f"{twice}: given twice in one object; keep one of them")
        return found

    def refuse(constant: str) -> float:
        raise InvalidYaml(f"{constant} is no number that JSON has; give a finite one")

    def whole(number: str) -> int | float:
        # Convert a long number through a float, because Python limits the length of the text of an int.
        return _json_number(int(number)) if len(number) < 25 else fraction(number)

    def fraction(number: str) -> int | float:
        value = float(number)
        return _json_number(value) if math.isfinite(value) else refuse(number)

    try:
        found = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse, parse_int=whole, parse_float=fraction)
    except (json.JSONDecodeError, RecursionError):
        return None
    _check_depth(found)
    return found


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return cast("dict[str, Any]", node).values()
    return cast("list[Any]", node) if isinstance(node, list) else ()


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
    if level:
        raise InvalidYaml(f"nested deeper than {MAX_DEPTH} levels")


def _where(path: str) -> str:
    return path.removeprefix(".") or "document"


def _parse_error(error: yaml.YAMLError) -> str:
    """The parser's message and its line number, in one line."""
    mark: Any = getattr(error, "problem_mark", None)
    problem: Any = getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"{problem}, in line {mark.line + 1}"
