"""Grammars that a text must follow: JSON of a schema, by the library ``llguidance``.

A grammar allows at each point the tokens with which the text can still become a sentence of the grammar (Willard and Louf 2023). The tokens
that end a text are allowed where the sentence is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from halcyon.tokenizer import Tokenizer, first_id

_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Between the parts of JSON there is one space or none, so that a text cannot go on with white space for ever."""


class _Vocabulary:
    """A tokenizer as llguidance takes it."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        names = {token: spelling.encode() for spelling, token in tokenizer.special_tokens.items()}
        self.tokens = [names.get(token, piece) for token, piece in enumerate(tokenizer.pieces())]
        # An id without text must not be chosen inside of a text either.
        self.special_token_ids = sorted({token for token, piece in enumerate(tokenizer.pieces()) if not piece} | set(ends))
        self.tokens = [piece or f"<unused {token}>".encode() for token, piece in enumerate(self.tokens)]
        self.eos_token_id, self.bos_token_id = ends[0], first_id(tokenizer)

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text).tolist()


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
            self._panic = _panic_of(lambda: self._matcher.unsafe_compute_mask_ptr(part.ctypes.data, part.nbytes))
        if self.failure or not words.any():  # limits of the library: the text ends here
            words[:] = 0
            for end in self._ends:
                words[end // 32] |= np.int32(np.uint32(1 << (end % 32)).view(np.int32))

    def accept(self, token: int) -> None:
        """Take the next token."""
        if not self.failure:
            self._panic = _panic_of(lambda: self._matcher.consume_token(token))


def _panic_of(call: Callable[[], object]) -> str:
    """Why a call of the library panicked; empty: it did not. A panic of Rust is no `Exception`, so it would end the thread."""
    try:
        call()
    except Exception:
        raise
    except BaseException as panic:
        if isinstance(panic, KeyboardInterrupt | SystemExit):
            raise
        return str(panic).partition("\n")[0] or type(panic).__name__
    return ""


class JsonGrammars:
    """Makes grammars of JSON schemas for one tokenizer.

    Args:
        tokenizer: The tokenizer.
        ends: Tokens that end a text.

    Raises:
        ImportError: The package ``llguidance`` is not installed (the extra ``serve``).
    """

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer, self._ends = tokenizer, tuple(ends)

    @cached_property
    def _vocabulary(self) -> Any:
        """Of llguidance; made for the first grammar, because it takes a second for a large vocabulary."""
        from llguidance import LLTokenizer
        from llguidance import TokenizerWrapper as Wrapper

        return LLTokenizer(Wrapper(_Vocabulary(self._tokenizer, self._ends)), eos_token=list(self._ends))

    def of_schema(self, schema: dict[str, Any], count: int = 1) -> list[JsonGrammar]:
        """Grammars for some texts.

        Args:
            schema: The JSON schema (draft 2020-12; llguidance lists the keywords that it supports).
            count: Texts.

        Raises:
            ValueError: The schema is not valid, or has a keyword that is not supported.
        """
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_FORM)  # pyright: ignore[reportArgumentType]
        made: list[LLMatcher] = []
        if panic := _panic_of(lambda: made.append(LLMatcher(self._vocabulary, grammar, log_level=0))):
            raise ValueError(panic)
        (matcher,) = made
        if matcher.is_error():
            raise ValueError(next(iter(matcher.get_error().splitlines()), "it is not valid"))
        return [JsonGrammar(matcher.deep_copy(), self._tokenizer.vocab_size, self._ends) for _ in range(count)]
