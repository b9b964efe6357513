"""The calculator that a model calls while it answers: arithmetic, and the count of a string in another. Pure.

A model writes ``<|python_start|>``, an expression, ``<|python_end|>``, by the marks of Halcyon's chat template. The
result follows between ``<|output_start|>`` and ``<|output_end|>``.

The expression is parsed, never evaluated as Python: only the listed forms have a meaning. Sizes are limited, so an
expression costs microseconds whatever it says.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np

from halcyon.tokenizer import Tokenizer

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
MARKS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")


class Calculator:
    """Computes the results of calls.

    Args:
        tokenizer: A tokenizer with the marks.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begin, self.end, self._output_begin, self._output_end = (tokenizer.special_tokens[mark] for mark in MARKS)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """The calculator of a tokenizer; None if it lacks a mark."""
        return cls(tokenizer) if all(mark in tokenizer.special_tokens for mark in MARKS) else None

    rounds = 17
    """See `halcyon.inference.rollout.Replies`."""

    @property
    def pauses(self) -> int:
        """See `halcyon.inference.rollout.Replies`."""
        return self.end

    def __call__(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        """The results of the calls at the ends of rows; see `halcyon.inference.rollout.Replies`."""
        calling = [row for row in rows if tokens[row, counts[row] - 1] == self.end]
        return {row: self.result(tokens[row, : counts[row]]) for row in calling}

    def result(self, answer: np.ndarray) -> list[int]:
        """The tokens that follow an answer which ends with a call; none if the expression has no value.

        Args:
            answer: The tokens up to the end of the call: int32 [tokens].
        """
        before = answer[:-1]
        places = np.flatnonzero(before == self._begin)
        if not len(places) or self.end in before[places[-1] :]:
            return []
        value = calculate(self._tokenizer.decode(before[places[-1] + 1 :].astype(np.int32)))
        return [] if value is None else [self._output_begin, *self._tokenizer.encode(value).tolist(), self._output_end]


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
            has_text = "'" in expression or '"' in expression
            plain = expression if has_text else expression.replace(",", "")
            value = _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError, _NoAnswer):
        return None
    return str(value)


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
