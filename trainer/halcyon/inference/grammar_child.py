"""Compiles JSON schemas with ``llguidance``; as a program, it tries schemas that come from strangers, within limits of
time and memory.

The library has limits for the steps of a text, but none for all of the compilation: a short schema with ``multipleOf``
can take minutes and gigabytes. A thread cannot be ended, so a schema is first compiled here, in a process that the
kernel ends at a limit. Only a schema that stayed within the limits is compiled again by the server.

The program reads a vocabulary and then schemas from standard input, and answers each; all are lines of JSON. It imports
only the standard library and ``llguidance``, so that it starts fast.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
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

    def json(self) -> bytes:
        """A line for `of_json`, without `encode`."""
        tokens = [token.decode("latin-1") for token in self.tokens]
        return (
            json.dumps([tokens, self.special_token_ids, self.eos_token_id, self.bos_token_id, self.ends]).encode()
            + b"\n"
        )

    @classmethod
    def of_json(cls, line: bytes) -> Vocabulary:
        """The vocabulary of a line."""
        tokens, *others = json.loads(line)
        return cls([token.encode("latin-1") for token in tokens], *others)

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


def main() -> None:
    """Answer requests until the end of the input.

    Arguments of the command: seconds of processor time and bytes for each schema.
    """
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer = tokenizer_of(Vocabulary.of_json(sys.stdin.buffer.readline()))
    compiled(tokenizer, '{"type": "object"}')  # what the library makes once is not counted for the first schema
    began, size = _resident_bytes(), _address_bytes()
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + memory_bytes, size + memory_bytes))
    _answer({})
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # the signal ends the process
        try:
            matcher = compiled(tokenizer, line.decode())
            answer: dict[str, object] = {"bytes": max(0, _resident_bytes() - began)}
            del matcher
        except ValueError as error:
            answer = {"error": str(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = _resident_bytes() - began > _GROWN_BYTES
        _answer(answer | {"isLast": is_last})
        if is_last:
            return


def _answer(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _pages(field: int) -> int:
    """A number of ``/proc/self/statm`` in bytes; 0 where there is no such file."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[field]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def _address_bytes() -> int:
    return _pages(0)


def _resident_bytes() -> int:
    return _pages(1)


if __name__ == "__main__":
    main()
