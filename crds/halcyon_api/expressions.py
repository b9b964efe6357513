"""The rules of the API server as functions in Python, so that a rule is written once.

They are expressions in CEL (https://github.com/google/cel-spec, ``doc/langdef.md``), whose grammar is that of Python
but for a few signs. So Python parses them, and runs none of them. A field that is not set is None, and so is all below
it. Not here: ``? :``, optional indices, ``filter`` and ``map``, and ``/`` of fractions.
"""

import ast
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

_TEXT_OR_SIGN = re.compile(r"'[^']*'|&&|\|\||!(?!=)|\.\?|/|\bfrom\b")
_SIGNS = {"&&": " and ", "||": " or ", "!": " not ", ".?": ".", "/": "//", "from": "from_"}


@cache
def _attributes(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _member(value: BaseModel | None, name: str) -> Any:
    return value and getattr(value, _attributes(type(value))[name.removesuffix("_")])


def _is_set(value: object) -> bool:
    return value is not None


def _or_value(value: Any, other: Any) -> Any:
    return other if value is None else value


def _matches(text: str, pattern: str) -> bool:
    return re.search(pattern, text) is not None


_MACROS: dict[str, Callable[[Iterable[bool]], bool]] = {
    "all": all,
    "exists": any,
    "exists_one": lambda found: sum(found) == 1,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "has": _is_set,
    "hasValue": _is_set,
    "orValue": _or_value,
    "matches": _matches,
    "size": len,
    "split": str.split,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "int": int,
    "double": float,
}


def _quotient(left: int, right: int) -> int:
    return left // right


def _is_in(one: object, several: Collection[object]) -> bool:
    return one in several


_OPERATIONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: _quotient,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: _is_in,
}
Scope = Mapping[str, Any]
"""The values of variables."""


def _read(node: ast.AST) -> Callable[[Scope], Any]:
    """The value of a part of an expression, from those of variables."""
    match node:
        case ast.Constant(value):
            return lambda _: value
        case ast.Name("true" | "false" as name):
            return lambda _: name == "true"
        case ast.Name(name):
            return operator.itemgetter(name)
        case ast.Attribute(part, name):
            whole = _read(part)
            return lambda scope: _member(whole(scope), name)
        case ast.BoolOp(operation, parts):
            combined = all if isinstance(operation, ast.And) else any
            reads = [*map(_read, parts)]
            return lambda scope: combined(read(scope) for read in reads)
        case ast.Compare(left, operations, rights):
            compared = [_OPERATIONS[type(one)] for one in operations]
            reads = [*map(_read, (left, *rights))]

            def compare(scope: Scope) -> bool:
                values = [read(scope) for read in reads]
                return all(one(*pair) for one, pair in zip(compared, pairwise(values), strict=True))

            return compare
        case ast.Call(ast.Attribute(part, name), [ast.Name(variable), test]) if name in _MACROS:
            several, is_true, macro = _read(part), _read(test), _MACROS[name]
            return lambda scope: macro(is_true({**scope, variable: one}) for one in several(scope))
        case ast.UnaryOp(operation, part):
            return _called(_OPERATIONS[type(operation)], part)
        case ast.BinOp(left, operation, right):
            return _called(_OPERATIONS[type(operation)], left, right)
        case ast.Subscript(part, index):
            return _called(operator.getitem, part, index)
        case ast.List(parts):
            return _called(lambda *values: [*values], *parts)
        case ast.Call(ast.Attribute(part, name), parts) if name in _FUNCTIONS:
            return _called(_FUNCTIONS[name], part, *parts)
        case ast.Call(ast.Name(name), parts) if name in _FUNCTIONS:
            return _called(_FUNCTIONS[name], *parts)
        case _:
            raise SyntaxError(f"a rule has a part that is not read here: {ast.unparse(node)}")


def _called(function: Callable[..., Any], *parts: ast.AST) -> Callable[[Scope], Any]:
    reads = [*map(_read, parts)]
    return lambda scope: function(*(read(scope) for read in reads))


@cache
def evaluated(text: str) -> Callable[[Any], bool]:
    """The function of an expression, from ``self`` to whether it is true.

    Raises:
        SyntaxError: It has a part that is not read here.
    """
    python = _TEXT_OR_SIGN.sub(lambda found: _SIGNS.get(found[0], found[0]), text)
    read = _read(ast.parse(python.strip(), mode="eval").body)
    return lambda value: read({"self": value})
