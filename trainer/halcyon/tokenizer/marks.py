"""Finds special tokens in a text, for tokenizers whose library does not find them itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np


class Marks:
    """Finds the special tokens that a text spells. If two begin at the same place, the longer one is taken."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = dict(special)
        self._pattern = re.compile("|".join(re.escape(name) for name in sorted(special, key=len, reverse=True)) or r"(?!)")

    def encode(self, text: str, encode_batch: Callable[[Sequence[str]], list[np.ndarray]]) -> np.ndarray:
        """Encode the text between the special tokens, and insert the ids of the special tokens: int32, shape [tokens]."""
        between: list[str] = []
        ids: list[np.ndarray] = []
        position = 0
        for mark in self._pattern.finditer(text):
            between.append(text[position : mark.start()])
            ids.append(np.array([self._special[mark.group()]], np.int32))
            position = mark.end()
        encoded = encode_batch([*between, text[position:]])
        return np.concatenate([array for pair in zip(encoded, [*ids, np.empty(0, np.int32)], strict=True) for array in pair])
