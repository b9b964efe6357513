"""Answers one request with the worker: takes room, prepares, computes, and cleans up whatever happens.

Requests are prepared in threads, and sounds are decoded in others. None can hold the end of the process, and a call
that does not end is seen (``/ready``).
"""

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from halcyon.serving import transcriptions
from halcyon.serving.batch import DONE, Batch, Mailbox, event
from halcyon.serving.embeddings import Embedder, EmbeddingRequest, document_of
from halcyon.serving.errors import ApiError, draining, failed, overloaded
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.preparing import check, grammars_of, prepare
from halcyon.serving.requests import ChatRequest, Request
from halcyon.serving.responses import ResponseBatch, ResponseChat
from halcyon.serving.transcriptions import TranscriptionRequest, heard
from halcyon.serving.worker import Worker

log = logging.getLogger(__name__)

_PREPARERS = 2
"""Threads that encode prompts."""
_COMPILERS = 2
"""Threads that compile JSON schemas; each tries them in a process of its own."""
_SCHEMAS_WAITING = 8
"""JSON schemas that wait for a thread: each may take seconds."""
_END_SECONDS = 5.0
Result = TypeVar("Result")

STUCK_SECONDS = 30.0
"""No valid request takes as long to prepare."""
_STUCK_SOUND_SECONDS = 600.0
"""No valid sound takes as long to decode."""
_RETRY_SECONDS = 2


class Preparers:
    """Some threads that run calls, in their order.

    Args:
        name: Of the threads.
        count: Threads.
        waiting: Calls that may wait for a thread.
        clock: Seconds from any point.
        stuck_seconds: No valid call takes as long.
    """

    def __init__(
        self,
        name: str,
        count: int,
        waiting: int,
        clock: Callable[[], float] = time.monotonic,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._waiting, self._clock, self._stuck_seconds = waiting, clock, stuck_seconds
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._began: dict[int, float] = {}
        """When each thread began the call that it runs."""
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=f"{name}-{index}", daemon=True)
            for index in range(count)
        ]
        self._closed = False
        for thread in self._threads:
            thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """The result of a call. If this is cancelled before the call has begun, it does not begin.

        Raises:
            ApiError: Too many calls wait, or the server ends.
        """
        if self._closed:
            raise draining()
        if self._queue.qsize() >= self._waiting:
            raise overloaded(_RETRY_SECONDS)
        done: Future[Result] = Future()
        self._queue.put((call, done))
        return await asyncio.wrap_future(done)

    @property
    def fault(self) -> str:
        """Why requests wait for ever; empty: they do not."""
        began = min(list(self._began.values()), default=None)
        seconds = 0.0 if began is None else self._clock() - began
        return f"a request has been prepared for {seconds:.0f} seconds" if seconds > self._stuck_seconds else ""

    def close(self) -> None:
        """Take no more calls; those that wait are refused."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the threads after `close`. Returns whether they have ended."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, index: int) -> None:
        while (taken := self._queue.get()) is not None:
            call, done = taken
            if self._closed or not done.set_running_or_notify_cancel():
                with contextlib.suppress(InvalidStateError):
                    done.set_exception(draining())
                continue
            self._began[index] = self._clock()
            try:
                result = call()
            except BaseException as error:  # the thread must live
                done.set_exception(error)
                del error
            else:
                done.set_result(result)
                del result
            del self._began[index], call, done, taken


@dataclass(eq=False)
class Service:
    """A model that answers requests.

    Args:
        worker: Computes texts.
        limits: The limits of the server.
        metrics: Counts what happens.
        embedder: Makes the vectors of texts. None: the server has none.
    """

    worker: Worker
    limits: Limits
    metrics: Metrics
    embedder: Embedder | None

    def __post_init__(self) -> None:
        self._preparers = Preparers("halcyon-prompts", _PREPARERS, self.limits.requests)
        requests, most = self.limits.requests, _STUCK_SOUND_SECONDS
        self._decoders = Preparers("halcyon-sounds", _PREPARERS, requests, stuck_seconds=most)
        self._compilers = Preparers("halcyon-schemas", _COMPILERS, _SCHEMAS_WAITING)

    @property
    def fault(self) -> str:
        """Why requests are not answered; empty: they are."""
        return self.worker.fault or self._preparers.fault or self._decoders.fault or self._compilers.fault

    async def begin(self, request: Request, salt: bytes = b"") -> Batch:
        """Begin to compute the sequences of a request. Call `end` afterwards, however the request ends.

        Args:
            request: The request.
            salt: Stands for the key of the client; see `Sharing`.

        Raises:
            ApiError: It is not valid, or there is no room.
        """
        worker, began = self.worker, time.monotonic()
        if worker.served.model.sound is not None:
            raise ApiError(404, "the model writes down sounds; use /v1/audio/transcriptions", code="not_found")
        if worker.served.model.bidirectional:
            raise ApiError(404, "the model is an encoder, which writes no text; use /v1/embeddings", code="not_found")
        count = check(request, worker.served.name, self.limits)
        worker.reserve(count)
        try:
            served = worker.served
            batch = await self._preparers.run(partial(prepare, request, served, worker.length, self.limits))
            if batch.schema is not None:
                grammars = await self._compilers.run(partial(grammars_of, batch.schema, served, count))
                for sequence, grammar in zip(batch.sequences, grammars, strict=True):
                    sequence.grammar = grammar
            batch.number, batch.created = secrets.token_hex(12), int(time.time())
            batch.mailbox = Mailbox(count, asyncio.get_running_loop())
            for index, sequence in enumerate(batch.sequences):
                sequence.push, sequence.salt, sequence.began = partial(batch.mailbox.push, index), salt, began
            worker.submit(batch.sequences)
            return batch
        except BaseException:
            worker.release(count)
            raise

    async def whole(self, batch: Batch) -> dict[str, object]:
        """The answer to a request, when all texts have ended.

        Raises:
            ApiError: A text cannot end.
        """
        try:
            async for index, output in batch.mailbox.outputs():
                batch.keep(index, output)
        except ApiError as error:
            batch.outcome, error.is_counted = outcome_of(error), True
            raise
        batch.outcome = "completed"
        return batch.whole()

    async def events(self, batch: Batch) -> AsyncIterator[bytes]:
        """The events of a stream. A fault is its last event, because the status of the answer is sent already."""
        for document in batch.begin():
            yield event(document)
        try:
            async for index, output in batch.mailbox.outputs():
                for document in batch.chunks(index, output):
                    yield event(document)
        except ApiError as error:
            batch.outcome = outcome_of(error)
            yield event(error.document)
            return
        for document in batch.end():
            yield event(document)
        batch.outcome = "completed"
        if not isinstance(batch, ResponseBatch):  # its last event says how it ended
            yield DONE

    def end(self, batch: Batch) -> None:
        """Count a request that has begun, and end texts that nobody reads any more."""
        self.worker.cancel(batch.sequences)
        self._count(endpoint_of(batch.request), batch.sequences[0].began, batch.outcome)

    async def transcribe(self, request: TranscriptionRequest) -> dict[str, Any] | str:
        """What is said in a file of sound, some parts at a time between those of others.

        Raises:
            ApiError: The request is not valid, there is no room, or the model hears no sounds.
        """
        worker, began = self.worker, time.monotonic()
        worker.reserve(1)
        try:
            sound = await self._decoders.run(partial(heard, request, worker.served, worker.compute))
            transcriber, samples, prompt = sound
            texts: list[str] = []
            for group in transcriber.groups(samples):
                texts += await self._computed(partial(transcriber.texts, group, prompt))
        finally:
            worker.release(1)
        self._count("transcriptions", began)
        return transcriptions.document_of(request, sound, texts)

    async def embed(self, request: EmbeddingRequest) -> dict[str, object]:
        """The vectors of some texts, one after another between the steps of the engine.

        Raises:
            ApiError: The request is not valid, there is no room, or the server makes no vectors.
        """
        embedder, worker, served, began = self.embedder, self.worker, self.worker.served, time.monotonic()
        if embedder is None:
            raise ApiError(404, "this server makes no embeddings; start it with --embeddings mean", code="not_found")
        texts = await self._preparers.run(partial(embedder.texts, request, served, self.limits))
        worker.reserve(len(texts))
        try:
            vectors = [await self._computed(partial(embedder.vector, served, ids)) for ids in texts]
        finally:
            worker.release(len(texts))
        self._count("embeddings", began)
        return document_of(request, served, vectors, sum(map(len, texts)))

    async def _computed(self, call: Callable[[], Result]) -> Result:
        """The result of a call in the engine's thread."""
        try:
            return await asyncio.wrap_future(self.worker.call(call))
        except ApiError:
            raise
        except Exception:  # the model failed, such as for want of memory
            log.exception("an answer without text could not be computed")
            raise failed() from None

    def _count(self, endpoint: str, began: float, outcome: str = "completed") -> None:
        self.metrics.requests.labels(endpoint, outcome).inc()
        if outcome == "completed":
            self.metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    def close(self) -> bool:
        """End the threads that prepare.

        Returns whether they have ended; a thread that runs a call cannot be stopped.
        """
        threads = self._preparers, self._decoders, self._compilers
        for preparers in threads:
            preparers.close()
        self.worker.served.end_checks()
        return all(preparers.join(_END_SECONDS) for preparers in threads)


def endpoint_of(request: Request) -> str:
    """The label of a request's endpoint."""
    if isinstance(request, ResponseChat):
        return "responses"
    return "chat" if isinstance(request, ChatRequest) else "completions"


def outcome_of(error: ApiError) -> str:
    """The label of an error."""
    names = {401: "unauthorized", 429: "overloaded", 503: "draining"}
    return names.get(error.status, "failed" if error.status >= 500 else "invalid")
