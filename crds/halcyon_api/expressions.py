"""The rules of the API server as functions in Python, so that a rule is written once.

They are expressions in CEL (https://github.com/google/cel-spec, ``doc/langdef.md``), whose grammar is that of Python
but for a few signs. So Python parses them, with calls of `_NAMES` in the place of members, methods and macros. A
field that is not set is None, and so is all below it. Not here: ``? :``, optional
indices, ``filter`` and ``map``, and ``/`` of fractions.
"""

import ast
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel

_TEXT_OR_SIGN = re.compile(r"'[^']*'|&&|\|\||!(?!=)|\.\?|/|\bfrom\b")
_SIGNS = {"&&": " and ", "||": " or ", "!": " not ", ".?": ".", "/": "//", "from": "from_"}


@cache
def _attributes(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _member(value: BaseModel | None, name: str) -> Any:
    return None if value is None else getattr(value, _attributes(type(value))[name.removesuffix("_")])


def _is_set(value: object) -> bool:
    return value is not None


def _or_value(value: Any, other: Any) -> Any:
    return other if value is None else value


def _matches(text: str, pattern: str) -> bool:
    return re.search(pattern, text) is not None


def _exists_one(found: Iterable[bool]) -> bool:
    return sum(found) == 1


_MACROS: dict[str, Callable[[Iterable[bool]], bool]] = {"all": all, "exists": any, "exists_one": _exists_one}
_NAMES: dict[str, Any] = _MACROS | {
    "member": _member,
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
    "true": True,
    "false": False,
}


class _Calls(ast.NodeTransformer):
    """Puts calls in the place of members, methods and macros."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.Call:
        """A member."""
        return _call("member", self.visit(node.value), ast.Constant(node.attr))

    def visit_Call(self, node: ast.Call) -> ast.Call:
        """A function, a method or a macro."""
        arguments: list[ast.expr] = [self.visit(argument) for argument in node.args]
        match node.func, arguments:
            case ast.Attribute(several, name), [ast.Name(variable), test] if name in _MACROS:
                each = ast.comprehension(ast.Name(variable, ast.Store()), self.visit(several), [], is_async=0)
                return _call(name, ast.GeneratorExp(test, [each]))
            case ast.Attribute(value, name), _:
                return _call(name, self.visit(value), *arguments)
            case _:
                return ast.Call(node.func, arguments, [])


def _call(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), [*arguments], [])


@cache
def evaluated(text: str) -> Callable[[Any], bool]:
    """The function of an expression, from ``self`` to whether it is true. The text is one of this package's rules.

    Raises:
        SyntaxError: It has a part that is not read here.
    """
    python = _TEXT_OR_SIGN.sub(lambda found: _SIGNS.get(found[0], found[0]), text)
    tree = _Calls().visit(ast.parse(f"lambda self: {python}", mode="eval"))
    return eval(compile(ast.fix_missing_locations(tree), text, "eval"), _NAMES)  # noqa: S307 - a rule of our own
