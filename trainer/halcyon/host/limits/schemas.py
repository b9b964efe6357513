"""Compiles JSON schemas with ``llguidance``. Schemas of strangers are tried in a process with limits (`Trial`).

The library has limits for the steps of a text, but none for all of the compilation: a short schema with ``multipleOf``
can take minutes and gigabytes. A thread cannot be ended, so a schema is first compiled here, in a process that the
kernel ends at a limit. Only a schema that stayed within the limits is compiled again by the server. The process imports
this module, so it imports only the standard library and ``llguidance``.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Between the parts of JSON there is one space or none, so that a text cannot go on with white space for ever."""
_STATES = 50_000
"""States of the lexer of one text. Each takes 1 to 2 kB, and they are made while the text comes."""
_GROWN_BYTES = 8 << 20
"""A process that keeps more than this after a schema is replaced: what it measures for the next one would be wrong."""


@dataclass
class Vocabulary:
    """A tokenizer as llguidance takes it.

    Attributes:
        tokens: The bytes of each token.
        special_token_ids: Tokens that must not be chosen inside of a text.
        eos_token_id: The token that ends a text.
        bos_token_id: The token that begins a document. None: there is none.
        ends: All tokens that end a text.
        encode: Encodes a text; only for grammars that continue a prompt.
    """

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: int | None
    ends: list[int]
    encode: Callable[[str | bytes], list[int]] | None = None

    @property
    def values(self) -> tuple[Any, ...]:
        """The arguments of `Trial`: all but `encode`."""
        tokens = [token.decode("latin-1") for token in self.tokens]
        return tokens, self.special_token_ids, self.eos_token_id, self.bos_token_id, self.ends

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text."""
        return [] if self.encode is None else self.encode(text)


def tokenizer_of(vocabulary: Vocabulary) -> Any:
    """The tokenizer of llguidance. It takes a second for a large vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=vocabulary.ends)


def compiled(tokenizer: Any, schema: str) -> Any:
    """The matcher of a JSON schema.

    Args:
        tokenizer: See `tokenizer_of`.
        schema: The schema as JSON.

    Raises:
        ValueError: The schema is not valid, or has a keyword that is not supported.
    """
    from llguidance import LLMatcher, LLParserLimits

    grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_FORM)  # pyright: ignore[reportArgumentType]
    made: list[LLMatcher] = []
    limits = LLParserLimits(max_lexer_states=_STATES, verbose_errors=False)
    if panic := panic_of(lambda: made.append(LLMatcher(tokenizer, grammar, log_level=0, limits=limits))):
        raise ValueError(panic)
    (matcher,) = made
    if matcher.is_error():
        raise ValueError(next(iter(matcher.get_error().splitlines()), "it is not valid"))
    return matcher


def panic_of(call: Callable[[], object]) -> str:
    """Why a call of the library panicked; empty: it did not.

    A panic of Rust is no `Exception`, so it would end the thread.
    """
    try:
        call()
    except Exception:
        raise
    except BaseException as panic:
        if isinstance(panic, KeyboardInterrupt | SystemExit):
            raise
        return str(panic).partition("\n")[0] or type(panic).__name__
    return ""


class Trial:
    """Tries schemas, in a process with limits.

    Args:
        values: `Vocabulary.values`, as JSON expresses them.
    """

    def __init__(self, *values: Any) -> None:
        tokens, *others = values
        self._tokenizer = tokenizer_of(Vocabulary([token.encode("latin-1") for token in tokens], *others))
        compiled(self._tokenizer, '{"type": "object"}')  # what the library makes once is not counted for a schema
        self._began = _resident_bytes()

    def ready(self) -> None:
        """Do nothing: the first call makes the object, which has no limits yet."""

    def try_schema(self, schema: str) -> tuple[int, bool]:
        """Bytes that the grammar of a schema takes, and whether this process should be replaced.

        Raises:
            ValueError: The schema is not valid.
        """
        matcher = compiled(self._tokenizer, schema)
        size = max(0, _resident_bytes() - self._began)
        del matcher
        return size, _resident_bytes() - self._began > _GROWN_BYTES


def _resident_bytes() -> int:
    """0 where there is no such file."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0
