"""The calculator that a model calls while it answers: arithmetic, and the count of a string in another. Pure.

The expression is parsed, never evaluated as Python: only the listed forms have a meaning. Sizes are limited, so an
expression costs microseconds whatever it says.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping

MOST_CHARACTERS = 500
"""Characters of the longest expression."""
_MOST = 1e30
"""Results with a greater magnitude are no answer."""
_OPERATIONS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _NoAnswer(Exception):
    """The expression has no meaning here."""


def calculate(expression: str) -> str | None:
    """The value of an expression as text, such as ``12/60`` or ``'strawberry'.count('r')``; None: it has no meaning
    here.

    Commas of thousands are left out.
    """
    if len(expression) > MOST_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # the parser warns of texts such as 1is
            value = _value(ast.parse(_without_commas(expression).strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError, _NoAnswer):
        return None
    return str(value)


def _without_commas(expression: str) -> str:
    return expression if "'" in expression or '"' in expression else expression.replace(",", "")


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(op)](_value(left), _value(right)))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str() as text), attr="count"),
            args=[ast.Constant(value=str() as part)],
            keywords=[],
        ):
            return text.count(part)
    raise _NoAnswer


def _bounded(value: float) -> float:
    if not math.isfinite(value) or abs(value) > _MOST:
        raise _NoAnswer
    return value
