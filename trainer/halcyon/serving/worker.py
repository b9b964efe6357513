"""The engine's thread: it computes all texts, and nothing else touches an engine.

A sequence reaches it in a queue, and gives its outputs to a function of its own. The server takes a fixed number of
sequences (`Limits.requests`), so neither the queue nor the outputs can grow without bound.

A newer model gets an engine of its own. Texts that began with the older model end with it, and both engines take turns
until then. So no request is lost or changes its weights (`Worker.adopt`).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal, TypeVar

from jax.typing import DTypeLike

from halcyon.inference.engine import Engine
from halcyon.inference.sampling import Sampling
from halcyon.inference.sequence import Fault, Output, Sequence
from halcyon.serving import transcriptions
from halcyon.serving.errors import draining, failed, overloaded
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.served import Served

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_WAKE_SECONDS = 0.5
_LONGEST_RETRY = 60
_ADOPT_SECONDS = 600.0
_STUCK_SECONDS = 300.0
"""All programs are compiled before the first request, so a step is short; a device that hangs does not come back."""
_WARM_PROMPTS = (8, 40, 300)
"""Lengths of prompts that together need every program of an engine."""


Sharing = Literal["key", "all", "none"]
"""Whose prompts share their common beginnings: those of one API key, and without keys those of all clients; all; or
none.

Time and ``cached_tokens`` tell a client that another one sent the same beginning.
"""


@dataclass(frozen=True)
class EngineSettings:
    """The sizes of an engine; see `halcyon.inference.Engine`.

    Attributes:
        slots: Texts that are computed at once.
        length: Most tokens of a prompt and its text. None: the positions of the model.
        pages: Pages of 16 tokens that all texts share. None: enough for all slots.
        share: Which prompts that begin alike share pages.
        compute: Type of activations, matrix products and the cache.
        ahead: Whether layers for further tokens propose tokens.
    """

    slots: int
    length: int | None
    pages: int | None
    share: Sharing
    compute: DTypeLike
    ahead: bool = True


class _NoTexts(Engine):
    """In the place of an engine, for a model that only writes down sounds or makes vectors: it has no slot."""

    def __init__(self, length: int) -> None:
        self.length = self.pages = length
        self.proposed = self.accepted = 0

    @property
    def free_pages(self) -> int:
        """See `Engine`."""
        return self.pages

    @property
    def running(self) -> int:
        """See `Engine`."""
        return 0

    @property
    def unfinished(self) -> int:
        """See `Engine`."""
        return 0


@dataclass(eq=False)
class _Generation:
    """A model with its engine, and the sequences that they compute, by their numbers."""

    served: Served
    engine: Engine
    sequences: dict[int, Sequence] = field(default_factory=dict[int, Sequence])


class Worker:
    """Computes texts in a thread of its own, from `start` to `stop`.

    Args:
        served: The first model.
        settings: The sizes of engines.
        limits: The limits of the server.
        metrics: Counts what happens.
    """

    def __init__(self, served: Served, settings: EngineSettings, limits: Limits, metrics: Metrics) -> None:
        self._settings, self._limits, self._metrics = settings, limits, metrics
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._accepted = 0
        self._draining = self._stopping = False
        self._broken = ""
        self._beat = time.monotonic()
        self._text_seconds = 1.0
        self._current = _Generation(served, self._engine(served))
        self._generations = [self._current]
        self._thread = threading.Thread(target=self._run, name="halcyon-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._beat = time.monotonic()
        self._thread.start()

    @property
    def served(self) -> Served:
        """The model of new requests."""
        return self._current.served

    @property
    def compute(self) -> DTypeLike:
        """Type of activations and matrix products."""
        return self._settings.compute

    @property
    def length(self) -> int:
        """Most tokens of a prompt and its text."""
        engine = self._current.engine
        return min(engine.length, engine.pages * 16)

    @property
    def accepted(self) -> int:
        """Texts that the server has taken and not ended."""
        return self._accepted

    @property
    def free_pages(self) -> tuple[int, int]:
        """Pages that no request has, and all pages, of the present engine."""
        return self._current.engine.free_pages, self._current.engine.pages

    @property
    def older(self) -> int:
        """Engines that only end the texts that they have."""
        return len(self._generations) - 1

    @property
    def is_draining(self) -> bool:
        """Whether the server takes no more requests."""
        return self._draining

    @property
    def fault(self) -> str:
        """Why the worker cannot compute; empty: it can."""
        if self._broken:
            return self._broken
        if not self._thread.is_alive():
            return "the engine's thread has ended"
        silent = time.monotonic() - self._beat
        return f"the engine has not ended a step for {silent:.0f} seconds" if silent > _STUCK_SECONDS else ""

    def reserve(self, count: int) -> None:
        """Take room for some texts.

        Raises:
            ApiError: There is no room, or the server ends.
        """
        with self._lock:
            if self._draining:
                raise draining()
            if self.fault:
                raise failed()
            if self._accepted + count > self._limits.requests:
                waves = (self._accepted + count) / self._settings.slots
                raise overloaded(min(_LONGEST_RETRY, max(1, round(waves * self._text_seconds))))
            self._accepted += count

    def release(self, count: int) -> None:
        """Give back room that `reserve` took and no text used."""
        with self._lock:
            self._accepted -= count

    def submit(self, sequences: Collection[Sequence]) -> None:
        """Compute sequences, for which `reserve` took room. Their last output gives it back."""
        self._inbox.put(lambda: self._begin(sequences))
        if not self._thread.is_alive():  # it has ended meanwhile, and takes nothing from the queue any more
            for sequence in sequences:
                sequence.push(Output(fault="draining"))

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Call a function in the engine's thread, between two steps, unless its future was cancelled before. It takes
        no room: `reserve` does."""
        done: Future[Result] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return  # nobody waits for it, and its future takes no result any more
            try:
                done.set_result(function())
            except Exception as error:  # the thread must live
                done.set_exception(error)

        self._inbox.put(run)
        if not self._thread.is_alive():  # it has ended meanwhile, and takes nothing from the queue any more
            with contextlib.suppress(InvalidStateError):  # the call was its last one
                done.set_exception(draining())
        return done

    def cancel(self, sequences: Collection[Sequence]) -> None:
        """End sequences whose reader is gone, and free their slots and pages. Those that are over stay as they are."""
        self._inbox.put(lambda: self._cancel(sequences))

    def adopt(self, served: Served) -> None:
        """Compute new requests with another model. Returns when it has its engine.

        Raises:
            Exception: The engine could not be made; the present model stays.
        """
        self.call(lambda: self._adopt(served)).result(_ADOPT_SECONDS)

    def drain(self) -> None:
        """Take no more requests. It does not wait; a signal handler may call it."""
        self._draining = True

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End all texts and the thread."""
        self._draining = True
        self._inbox.put(self._end)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def warm_up(self) -> None:
        """Compile every program, before the thread is started."""
        engine = self._current.engine
        if isinstance(engine, _NoTexts):
            if self.served.model.sound is not None:
                transcriptions.warm_up(self.served, self.compute)
            return
        for length in _WARM_PROMPTS:
            for _ in range(2):  # the second time, the beginning of the prompt is found
                engine.submit([0] * min(length, self.length - 1), Sampling(1, temperature=0.0))
                while engine.unfinished:
                    engine.step()

    def _engine(self, served: Served) -> Engine:
        settings = self._settings
        if served.model.sound is not None:
            return _NoTexts(served.model.max_position.size)
        if served.model.bidirectional:
            most = served.model.max_position.size
            return _NoTexts(min(settings.length or most, most))
        return Engine(
            served.model,
            slots=settings.slots,
            length=settings.length,
            pages=settings.pages,
            tokens=served.tokenizer.vocab_size,
            alternatives=min(self._limits.alternatives, served.model.token_count),
            compute_dtype=settings.compute,
            share=settings.share != "none",
            ahead=settings.ahead,
        )

    def _run(self) -> None:
        while not self._stopping:
            self._beat = time.monotonic()
            self._take_commands()
            for generation in tuple(self._generations):
                if generation.engine.unfinished:
                    self._step(generation)
            self._generations = [one for one in self._generations if one is self._current or one.sequences]
            self._measure()
        while not self._inbox.empty():
            self._inbox.get_nowait()()
        for generation in self._generations:
            self._fail(generation, "draining")

    def _take_commands(self) -> None:
        """Carry out what other threads asked for; wait for it if there is nothing to compute.

        What comes meanwhile waits until the next step: vectors that clients ask for one after another must not stop the
        texts.
        """
        wait = not any(generation.engine.unfinished for generation in self._generations)
        try:
            command = self._inbox.get(timeout=_WAKE_SECONDS) if wait else self._inbox.get_nowait()
        except Empty:
            return
        more = self._inbox.qsize()
        command()
        for _ in range(more):  # no other thread takes from the queue
            self._inbox.get_nowait()()

    def _begin(self, sequences: Collection[Sequence]) -> None:
        generation = self._current
        for sequence in sequences:
            if sequence.is_over:
                continue
            if self._settings.share == "all":
                sequence.salt = b""
            try:
                generation.engine.add(sequence)
            except Exception:  # the request was checked before; whatever it is, the thread must live
                log.exception("a request that had passed all checks was refused by the engine")
                self._over(sequence, Output(fault="failed"))
                continue
            generation.sequences[sequence.number] = sequence
            sequence.begin(generation.served.tokenizer)

    def _cancel(self, sequences: Collection[Sequence]) -> None:
        for sequence in sequences:
            if sequence.is_over:
                continue
            for generation in self._generations:
                if generation.sequences.get(sequence.number) is sequence:
                    generation.engine.cancel(sequence.number)
                    del generation.sequences[sequence.number]
            self._over(sequence, None)

    def _adopt(self, served: Served) -> None:
        generation = _Generation(served, self._engine(served))
        self._current = generation
        self._generations = [*(one for one in self._generations if one.sequences), generation]

    def _end(self) -> None:
        self._stopping = True

    def _step(self, generation: _Generation) -> None:
        try:
            tokens = generation.engine.step()
        except Exception:  # the state of the engine may be lost; its texts are, but not the server
            log.exception("the engine failed; its texts end, and it begins again")
            self._metrics.engine_failures.inc()
            self._fail(generation, "failed")
            try:
                generation.engine = self._engine(generation.served)
            except Exception as error:
                log.exception("the engine could not begin again")
                self._broken = f"the engine could not begin again: {error}"
            return
        for token in tokens:
            sequence = generation.sequences[token.sequence]
            output = sequence.take(token)
            self._metrics.token(sequence, output)
            if output.is_last:
                del generation.sequences[token.sequence]
                generation.engine.cancel(token.sequence)  # a stop string ends a text that the engine would go on with
                self._text_seconds += 0.1 * (time.monotonic() - sequence.began - self._text_seconds)
                self._over(sequence, output)
            else:
                sequence.push(output)

    def _fail(self, generation: _Generation, fault: Fault) -> None:
        for number, sequence in tuple(generation.sequences.items()):
            generation.engine.cancel(number)
            self._over(sequence, Output(fault=fault, generated=sequence.taken))
        generation.sequences.clear()

    def _over(self, sequence: Sequence, output: Output | None) -> None:
        """A sequence has ended; without a last output if its reader is gone."""
        sequence.is_over = True
        self.release(1)
        if output is not None:
            sequence.push(output)

    def _measure(self) -> None:
        running = sum(generation.engine.running for generation in self._generations)
        self._metrics.running.set(running)
        self._metrics.waiting.set(max(0, self._accepted - running))
        engine = self._current.engine
        self._metrics.pages.set(engine.pages)
        self._metrics.pages_used.set(engine.pages - engine.free_pages)
        for one in self._generations:
            self._metrics.proposed_tokens.inc(one.engine.proposed)
            self._metrics.accepted_tokens.inc(one.engine.accepted)
            one.engine.proposed = one.engine.accepted = 0
