"""Grammars that a text must follow: JSON of a schema, by the library ``llguidance``.

A grammar allows at each point the tokens with which the text can still become a sentence of the grammar (Willard and
Louf 2023). The tokens that end a text are allowed where the sentence is complete.

Schemas are tried in processes with limits (`halcyon.host.limits`), which are used again until a schema ends one.
"""

import hashlib
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from halcyon.host.limits import child
from halcyon.host.limits.apart import Child
from halcyon.host.limits.schemas import Trial, Vocabulary, compiled, panic_of, tokenizer_of
from halcyon.tokenizer import Tokenizer, first_id

_LEAST_BYTES = 1 << 20
"""Bytes that each text with a grammar is counted with: its lexer grows while the text comes."""
_START_SECONDS = 120.0
"""Longest start of a process, which reads the vocabulary."""
_KNOWN = 1024
"""Schemas whose result is kept."""


@dataclass(frozen=True)
class SchemaLimits:
    """Limits of the compilation of JSON schemas.

    Attributes:
        processor_seconds: Seconds of processor time for one schema.
        seconds: Seconds for one schema, also if the machine is busy.
        memory_bytes: Bytes for one schema, beyond those of the vocabulary.
        all_bytes: Bytes of the grammars of all requests in flight.
    """

    processor_seconds: float = 2.0
    seconds: float = 20.0
    memory_bytes: int = 128 << 20
    all_bytes: int = 512 << 20


class SchemaLimit(ValueError):
    """A schema was not compiled because of a limit.

    Args:
        message: A sentence for the user.
        is_for_now: Whether the same schema may be possible later.
    """

    def __init__(self, message: str, *, is_for_now: bool = False) -> None:
        super().__init__(message)
        self.is_for_now = is_for_now


class SchemaChecks:
    """Tries schemas. Several threads may call it at once; each uses a process of its own.

    Args:
        vocabulary: The vocabulary.
        limits: The limits.
    """

    def __init__(self, vocabulary: Vocabulary, limits: SchemaLimits) -> None:
        self._limits = limits
        self._made = (Trial.__module__, Trial.__name__, vocabulary.values)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._all: set[Child] = set()
        self._known: OrderedDict[bytes, int | None] = OrderedDict()
        """Bytes of the grammar of each schema. None: it is beyond the limits."""
        self.started = 0
        """Processes that were started."""
        self.tried = 0
        """Schemas that were tried."""

    def check(self, schema: str) -> int:
        """Try a schema.

        Args:
            schema: JSON.

        Returns:
            The bytes that its grammar takes.

        Raises:
            SchemaLimit: It takes too much time or memory.
            ValueError: It is not valid.
        """
        key = hashlib.sha256(schema.encode()).digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._bytes_of(self._known[key])
            self.tried += 1
            process = self._idle.pop() if self._idle else None
        process = process or self._start()
        limits = self._limits
        kind: str = child.KILLED
        answer: Any = None
        try:
            kind, answer = process.ask(
                "", self._made, "try_schema", (schema,), limits.processor_seconds, limits.memory_bytes, limits.seconds
            )
        finally:
            self._leave(process, is_last=answer is None or (kind == child.RETURNED and answer[1]))
        if kind == child.RAISED:
            raise ValueError(answer)
        if answer is None and process.killed:
            raise _ends()
        needed = None if answer is None else int(answer[0])
        if kind != child.KILLED:  # else the machine may have been busy
            with self._lock:
                self._known[key] = needed
                while len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
        return self._bytes_of(needed)

    def _bytes_of(self, needed: int | None) -> int:
        if needed is None:
            raise SchemaLimit(
                f"it takes more than {self._limits.processor_seconds:g} seconds or {self._limits.memory_bytes >> 20} "
                "MiB to compile; make it simpler, such as with a smaller multipleOf"
            )
        return needed

    def kill(self) -> None:
        """End all processes. The schemas that they try are refused."""
        with self._lock:
            processes, idle = self._all, self._idle
            self._all, self._idle = set(), []
        for process in processes:
            process.kill()
        for process in idle:
            process.end()

    @property
    def busy(self) -> int:
        """Processes that start or try a schema."""
        return len(self._all) - len(self._idle)

    def _start(self) -> Child:
        """A process that has the vocabulary.

        Raises:
            SchemaLimit: It was killed.
            OSError: It did not start.
        """
        process = Child()
        with self._lock:
            self._all.add(process)
            self.started += 1
        kind, _ = process.ask("", self._made, "ready", (), 0, 0, _START_SECONDS)
        if kind != child.RETURNED:
            self._leave(process, is_last=True)
            raise _ends() if process.killed else OSError("the process that tries JSON schemas did not start")
        return process

    def _leave(self, process: Child, *, is_last: bool) -> None:
        """Keep a process for the next schema, or end it."""
        with self._lock:
            if not is_last and not process.killed:
                self._idle.append(process)
                return
            self._all.discard(process)
        process.end()


def _ends() -> SchemaLimit:
    return SchemaLimit("the server ends", is_for_now=True)


class GrammarMemory:
    """Bytes of the grammars of all requests in flight.

    Args:
        most_bytes: Most of them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._lock = most_bytes, threading.Lock()
        self.taken_bytes = 0
        """Bytes that grammars have."""

    def take(self, count: int) -> None:
        """Take bytes for a grammar.

        Raises:
            SchemaLimit: The other grammars have them.
        """
        with self._lock:
            if self.taken_bytes + count > self._most_bytes:
                raise SchemaLimit(
                    "the grammars of the requests in flight have all memory that grammars may have; try again later",
                    is_for_now=True,
                )
            self.taken_bytes += count

    def give(self, count: int) -> None:
        """Give bytes of a grammar back."""
        with self._lock:
            self.taken_bytes -= count


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
        for number, grammar in enumerate(made):  # each gives back its share
            share = needed // count + (needed % count if number == 0 else 0)
            weakref.finalize(grammar, self.memory.give, share).atexit = False
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
