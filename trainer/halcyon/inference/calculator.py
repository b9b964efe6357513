"""The calls of the calculator in the tokens of an answer, by the marks of Halcyon's chat template.

A model writes ``<|python_start|>``, an expression, ``<|python_end|>``. The result follows between ``<|output_start|>`` and
``<|output_end|>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from halcyon.evaluate.tasks.calculator import calculate
from halcyon.tokenizer import Tokenizer

MARKS = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")


class Calculator:
    """Answers calls.

    Args:
        tokenizer: A tokenizer with the marks.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._marks = tuple(tokenizer.special_tokens[mark] for mark in MARKS)
        self.end = self._marks[1]
        """The token that ends a call."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """The calculator of a tokenizer; None if it lacks a mark."""
        return cls(tokenizer) if all(mark in tokenizer.special_tokens for mark in MARKS) else None

    def result(self, answer: np.ndarray) -> list[int]:
        """The tokens that follow an answer which ends with a call; see `result_of`."""
        return result_of(self._tokenizer, self._marks, answer)


def result_of(tokenizer: Tokenizer, marks: Sequence[int], answer: np.ndarray) -> list[int]:
    """The tokens that follow an answer which ends with a call; none if the expression has no value.

    Args:
        tokenizer: The tokenizer.
        marks: The tokens of `MARKS`; empty: the tokenizer lacks one, so there is no call.
        answer: The tokens up to the end of the call: int32 [tokens].
    """
    if not marks:
        return []
    begin, end, output_begin, output_end = marks
    before = answer[:-1]
    places = np.flatnonzero(before == begin)
    if not len(places) or end in before[places[-1] :]:
        return []
    value = calculate(tokenizer.decode(before[places[-1] + 1 :]))
    return [] if value is None else [output_begin, *tokenizer.encode(value).tolist(), output_end]
