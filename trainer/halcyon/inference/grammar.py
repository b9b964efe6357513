"""Grammars that a text must follow: JSON of a schema, by the library ``llguidance``.

A grammar allows at each point the tokens with which the text can still become a sentence of the grammar (Willard and
Louf 2023). The tokens that end a text are allowed where the sentence is complete.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from halcyon.inference.grammar_checks import GrammarMemory, SchemaChecks, SchemaLimit, SchemaLimits
from halcyon.inference.grammar_child import Vocabulary, compiled, panic_of, tokenizer_of
from halcyon.tokenizer import Tokenizer, first_id

__all__ = ["JsonGrammar", "JsonGrammars", "SchemaLimit", "SchemaLimits"]

_LEAST_BYTES = 1 << 20
"""Bytes that each text with a grammar is counted with: its lexer grows while the text comes."""


class JsonGrammar:
    """JSON of one schema, in one text. See `halcyon.inference.engine.Grammar`.

    Args:
        matcher: The state of llguidance.
        tokens: Tokens of the tokenizer.
        ends: Tokens that end a text.
    """

    def __init__(self, matcher: Any, tokens: int, ends: Sequence[int]) -> None:
        self._matcher, self._words, self._ends = matcher, -(-tokens // 32), tuple(ends)
        self._panic = ""

    @property
    def failure(self) -> str:
        """Why the grammar ended the text; empty: it did not."""
        if self._panic:
            return self._panic
        return self._matcher.get_error().partition("\n")[0] if self._matcher.is_error() else ""

    def allow(self, words: np.ndarray) -> None:
        """Set the bits of the tokens that may come next: int32 [word]."""
        words[:] = 0
        if not self.failure:
            part = words[: self._words]
            self._panic = panic_of(lambda: self._matcher.unsafe_compute_mask_ptr(part.ctypes.data, part.nbytes))
        if self.failure or not words.any():  # limits of the library: the text ends here
            words[:] = 0
            for end in self._ends:
                words[end // 32] |= np.int32(np.uint32(1 << (end % 32)).view(np.int32))

    def accept(self, token: int) -> None:
        """Take the next token."""
        if not self.failure:
            self._panic = panic_of(lambda: self._matcher.consume_token(token))


class JsonGrammars:
    """Makes grammars of JSON schemas for one tokenizer. A schema that is new is tried first, in a process with limits.

    Args:
        tokenizer: The tokenizer.
        ends: Tokens that end a text.
        limits: Limits of schemas.

    Raises:
        ImportError: The package ``llguidance`` is not installed (the extra ``serve``).
    """

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int], limits: SchemaLimits | None = None) -> None:
        limits = limits or SchemaLimits()
        self._vocabulary, self._ends = _vocabulary(tokenizer, ends), tuple(ends)
        self.checks = SchemaChecks(self._vocabulary, limits)
        self.memory = GrammarMemory(limits.all_bytes)
        weakref.finalize(self, self.checks.kill)

    @property
    def tokens(self) -> int:
        """Tokens of the tokenizer."""
        return len(self._vocabulary.tokens)

    @cached_property
    def _tokenizer(self) -> Any:
        """Of llguidance; made for the first grammar, because it takes a second for a large vocabulary."""
        return tokenizer_of(self._vocabulary)

    def of_schema(self, schema: dict[str, Any], count: int = 1) -> list[JsonGrammar]:
        """Grammars for some texts.

        Args:
            schema: The JSON schema (draft 2020-12; llguidance lists the keywords that it supports).
            count: Texts.

        Raises:
            SchemaLimit: The schema takes too much time or memory, or other grammars have the memory.
            ValueError: The schema is not valid, or has a keyword that is not supported.
        """
        if "x-guidance" in schema:  # it would change settings of the library, such as the white space
            raise ValueError("it has the key x-guidance; leave it out")
        text = json.dumps(schema)
        needed = self.checks.check(text) + count * _LEAST_BYTES
        self.memory.take(needed)
        try:
            matcher = compiled(self._tokenizer, text)
            made = [JsonGrammar(matcher.deep_copy(), self.tokens, self._ends) for _ in range(count)]
        except BaseException:
            self.memory.give(needed)
            raise
        for number, one in enumerate(made):  # each gives back its share
            weakref.finalize(
                one, self.memory.give, needed // count + (needed % count if number == 0 else 0)
            ).atexit = False
        return made


def _vocabulary(tokenizer: Tokenizer, ends: Sequence[int]) -> Vocabulary:
    pieces = tokenizer.pieces()
    names = {token: spelling.encode() for spelling, token in tokenizer.special_tokens.items()}
    tokens = [names.get(token, piece) or f"<unused {token}>".encode() for token, piece in enumerate(pieces)]
    # An id without text must not be chosen inside of a text either.
    special = sorted({token for token, piece in enumerate(pieces) if not piece} | set(ends))
    return Vocabulary(
        tokens, special, ends[0], first_id(tokenizer), list(ends), lambda text: tokenizer.encode(text).tolist()
    )
