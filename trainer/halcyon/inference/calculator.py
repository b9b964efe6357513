"""The calls of the calculator in the tokens of an answer, by the marks of Halcyon's chat template.

A model writes ``<|python_start|>``, an expression, ``<|python_end|>``. The result follows between ``<|output_start|>``
and ``<|output_end|>``.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from halcyon.inference.arithmetic import calculate
from halcyon.tokenizer import Tokenizer

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
