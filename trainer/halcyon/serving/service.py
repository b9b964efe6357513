"""Answers one request with the worker: takes room, prepares, computes, and cleans up whatever happens."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial

from halcyon.serving.answers import DONE, Answer, event
from halcyon.serving.embeddings import Embedder, EmbeddingQuestion, document_of
from halcyon.serving.errors import ApiError, failed
from halcyon.serving.limits import Limits
from halcyon.serving.mailbox import Mailbox
from halcyon.serving.metrics import Metrics
from halcyon.serving.preparers import Preparers
from halcyon.serving.preparing import check, grammars_of, prepare
from halcyon.serving.questions import ChatQuestion, Question
from halcyon.serving.worker import Ticket, Worker

log = logging.getLogger(__name__)

_PREPARERS = 2
"""Threads that encode prompts."""
_COMPILERS = 2
"""Threads that compile JSON schemas; each tries them in a process of its own."""
_SCHEMAS_WAITING = 8
"""JSON schemas that wait for a thread: each may take seconds."""
_END_SECONDS = 5.0


class Exchange:
    """A request that the worker has: its texts, and the answer to it. Call `close` at its end, however it ends.

    Args:
        question: The request.
        answer: Joins the parts.
        tickets: Its texts.
        mailbox: Their parts.
        worker: Computes them.
        metrics: Counts the request.
    """

    def __init__(
        self, question: Question, answer: Answer, tickets: list[Ticket], mailbox: Mailbox, worker: Worker, metrics: Metrics, began: float
    ) -> None:
        self._answer, self._tickets, self._mailbox, self._worker, self._metrics = answer, tickets, mailbox, worker, metrics
        self._endpoint, self._began = endpoint_of(question), began
        self._outcome = "cancelled"

    async def whole(self) -> dict[str, object]:
        """The answer, when all texts have ended.

        Raises:
            ApiError: A text cannot end.
        """
        try:
            async for index, part in self._mailbox.parts():
                self._answer.keep(index, part)
        except ApiError as error:
            self._outcome, error.is_counted = outcome_of(error), True
            raise
        self._outcome = "completed"
        return self._answer.whole()

    async def events(self) -> AsyncIterator[bytes]:
        """The events of the stream. A fault is its last event, because the status of the answer is sent already."""
        for one in self._answer.begin():
            yield event(one)
        try:
            async for index, part in self._mailbox.parts():
                for one in self._answer.chunks(index, part):
                    yield event(one)
        except ApiError as error:
            self._outcome = outcome_of(error)
            yield event(error.document)
            return
        for one in self._answer.end():
            yield event(one)
        self._outcome = "completed"
        yield DONE

    def close(self) -> None:
        """Count the request, and end texts that nobody reads any more."""
        self._worker.cancel(self._tickets)
        self._metrics.requests.labels(self._endpoint, self._outcome).inc()
        if self._outcome == "completed":
            self._metrics.seconds.labels(self._endpoint).observe(time.monotonic() - self._began)


class Service:
    """A model that answers requests.

    Args:
        worker: Computes texts.
        limits: The limits of the server.
        metrics: Counts what happens.
        embedder: Makes the vectors of texts. None: the server has none.
    """

    def __init__(self, worker: Worker, limits: Limits, metrics: Metrics, embedder: Embedder | None = None) -> None:
        self.worker, self.limits, self.metrics, self._embedder = worker, limits, metrics, embedder
        self._preparers = Preparers("halcyon-prompts", _PREPARERS, limits.requests)
        self._compilers = Preparers("halcyon-schemas", _COMPILERS, _SCHEMAS_WAITING)

    @property
    def fault(self) -> str:
        """Why requests are not answered; empty: they are."""
        return self.worker.fault or self._preparers.fault or self._compilers.fault

    async def begin(self, question: Question, salt: bytes = b"") -> Exchange:
        """Begin to compute the texts of a request.

        Args:
            question: The request.
            salt: Stands for the key of the client; see `Sharing`.

        Raises:
            ApiError: It is not valid, or there is no room.
        """
        worker, began = self.worker, time.monotonic()
        count = check(question, worker.served.name, self.limits)
        worker.reserve(count)
        submitted = False
        try:
            served = worker.served
            loop = asyncio.get_running_loop()
            prepared = await self._preparers.run(partial(prepare, question, served, worker.length, self.limits))
            if prepared.schema is not None:
                prepared = prepared.bound(await self._compilers.run(partial(grammars_of, prepared.schema, served, count)))
            mailbox = Mailbox(count, loop)
            tickets = [Ticket(task, partial(mailbox.push, index), salt, began) for index, task in enumerate(prepared.tasks)]
            answer = Answer(question, prepared, served, secrets.token_hex(12), int(time.time()))
            worker.submit(tickets)
            submitted = True
            return Exchange(question, answer, tickets, mailbox, worker, self.metrics, began)
        finally:
            if not submitted:
                worker.release(count)

    async def embed(self, question: EmbeddingQuestion) -> dict[str, object]:
        """The vectors of some texts, one after another between the steps of the engine.

        Raises:
            ApiError: The request is not valid, there is no room, or the server makes no vectors.
        """
        embedder, worker, served, began = self._embedder, self.worker, self.worker.served, time.monotonic()
        if embedder is None:
            raise ApiError(404, "this server makes no embeddings; start it with --embeddings mean", code="not_found")
        texts = await self._preparers.run(partial(embedder.texts, question, served, self.limits))
        worker.reserve(len(texts))
        try:
            vectors = [await asyncio.wrap_future(worker.call(partial(embedder.vector, served, ids))) for ids in texts]
        except ApiError:
            raise
        except Exception:  # the model failed, such as for want of memory
            log.exception("the vector of a text could not be computed")
            raise failed() from None
        finally:
            worker.release(len(texts))
        self.metrics.requests.labels("embeddings", "completed").inc()
        self.metrics.seconds.labels("embeddings").observe(time.monotonic() - began)
        return document_of(question, served, vectors, sum(map(len, texts)))

    def close(self) -> bool:
        """End the threads that prepare. Returns whether they have ended; a thread that runs a call cannot be stopped."""
        threads = self._preparers, self._compilers
        for one in threads:
            one.close()
        self.worker.served.end_checks()
        return all(one.join(_END_SECONDS) for one in threads)


def endpoint_of(question: Question) -> str:
    """The label of a request's endpoint."""
    return "chat" if isinstance(question, ChatQuestion) else "completions"


def outcome_of(error: ApiError) -> str:
    """The label of an error."""
    names = {401: "unauthorized", 429: "overloaded", 503: "draining"}
    return names.get(error.status, "failed" if error.status >= 500 else "invalid")
