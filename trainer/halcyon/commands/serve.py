"""The command ``halcyon serve``: a model behind the HTTP interface of OpenAI."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from halcyon.commands import options
from halcyon.commands.errors import report_root_errors
from halcyon.commands.terminal import COMPILING_MODEL, say, waiting
from halcyon.host.errors import BadConfiguration
from halcyon.host.last_resort import end_within

if TYPE_CHECKING:
    from halcyon.serving.limits import Limits

_CLOSING_SECONDS = 30.0
"""Longest time from the last answer to the end of the process."""


@dataclass(frozen=True)
class Limited:
    """Limits of the server.

    Args:
        max_requests: Texts that are computed or wait; further requests get 429.
        max_tokens: Most tokens of a text. Default: as many as fit into --length.
        max_choices: Most texts of one request (its n times its prompts).
        max_body_bytes: Most bytes of a request.
        max_connections: Most connections; then a client that waits longest is cut off.
        max_connections_per_address: Most connections of one address. Behind a proxy, as many as --max-connections.
        drain_seconds: Time for the requests in flight after SIGTERM.
    """

    max_requests: options.AtLeast1 = 64
    max_tokens: options.AtLeast1 | None = None
    max_choices: options.AtLeast1 = 16
    max_body_bytes: options.AtLeast1 = 1_048_576
    max_connections: options.AtLeast1 = 4096
    max_connections_per_address: options.AtLeast1 = 1024
    drain_seconds: Annotated[float, typer.Option(min=0)] = 30.0

    def limits(self) -> Limits:
        """The limits, with as many connections as this process may open."""
        from halcyon.serving.connections import openable
        from halcyon.serving.limits import Limits

        return Limits(
            self.max_requests,
            self.max_tokens,
            self.max_choices,
            body_bytes=self.max_body_bytes,
            drain_seconds=self.drain_seconds,
            connections=openable(self.max_connections),
            connections_per_address=self.max_connections_per_address,
        )


@dataclass(frozen=True)
class Engine:
    """The sizes of the engine.

    Args:
        slots: Texts that are computed at once.
        length: Most tokens of a prompt and its text; at most the model's positions.
        pages: Pages of 16 tokens that all texts share. Default: enough for all slots.
        share_prompts: Compute the common beginning of prompts once: of those of one API key, of all, or of none.
        ahead: Compute tokens that the model's layers for further tokens propose, several in a pass.
    """

    slots: options.AtLeast1 = 8
    length: Annotated[int, typer.Option(min=2)] = 4096
    pages: options.AtLeast1 | None = None
    share_prompts: Literal["key", "all", "none"] = "key"
    ahead: bool = True


def serve(
    *,
    place: options.Place,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    name: str | None = None,
    api_key_file: Path | None = None,
    limited: Limited,
    engine: Engine,
    follow: bool = False,
    follow_seconds: Annotated[float, typer.Option(min=0.1)] = 10.0,
    template: options.Template = None,
    weights: options.Kept = "model",
    embeddings: Literal["mean", "last", "cls"] | None = None,
    loaded: options.Loaded,
) -> None:
    """Answer requests of OpenAI's clients, and show the chat page, until SIGTERM or Ctrl-C.

    Args:
        host: Address to listen on. 0.0.0.0: all of this machine; then give an API key.
        port: Port to listen on. 0: any free one.
        name: Name of the model for clients. Default: that of the place, or of an export's run.
        api_key_file: A file with API keys, one a line. The variable HALCYON_API_KEY is a further key. Default: no key.
        follow: Take each newer good checkpoint of the root; no request is dropped.
        follow_seconds: Time between two looks at the root.
        weights: average: the average of the parameters that the run keeps (spec.average).
        embeddings: Answer /v1/embeddings with the mean of the features, or those of the last or first token. Default:
            as the model was trained, if it was trained to make vectors.
    """
    with report_root_errors():
        try:
            import uvicorn  # noqa: F401 - only to find out whether it is there
        except ImportError:
            from halcyon_api.package import install

            raise BadConfiguration(
                f"`halcyon serve` needs further packages; install them with {install('serve')}"
            ) from None
        from halcyon.host.local_names import is_loopback
        from halcyon.models.int8 import stored_bytes
        from halcyon.serving.access import read_keys
        from halcyon.serving.embeddings import Embedder
        from halcyon.serving.following import Follower
        from halcyon.serving.metrics import Metrics
        from halcyon.serving.routes import application
        from halcyon.serving.server import Server, bound
        from halcyon.serving.service import Service
        from halcyon.serving.worker import EngineSettings, Worker

        keys = read_keys(api_key_file, os.environ)
        limits = limited.limits()
        if limits.connections < limited.max_connections:
            say(
                f"warning: this process may open too few files, so at most {limits.connections} connections are "
                "possible; see ulimit -n"
            )
        source = loaded.source(place, name=name, template=template, weights=weights)
        if follow:
            source.check_follow()
        newest = source.newest() if source.is_root else None
        listener = bound(host, port)  # before the model, which takes longer
        if not keys and not is_loopback(host):
            say(f"warning: every client that reaches {host} can use the model; give --api-key-file to prevent it")
        metrics = Metrics()
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        for library in ("jax", "jax._src.xla_bridge"):
            logging.getLogger(library).setLevel(logging.WARNING)
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # a warning for each malformed request would fill the log
        served = source.load(newest)
        embeddings = embeddings or served.model.pooling
        if served.model.sound is not None and embeddings is not None:
            raise BadConfiguration("--embeddings: the model writes down sounds, and no vectors of texts; leave it out")
        if served.model.bidirectional and embeddings is None:
            raise BadConfiguration(
                "the model is an encoder, which writes no text; give --embeddings mean or cls, for vectors of texts"
            )
        metrics.slots.set(engine.slots)
        metrics.step.set(served.step or 0)
        settings = EngineSettings(
            engine.slots, engine.length, engine.pages, engine.share_prompts, loaded.compute, engine.ahead
        )
        worker = Worker(served, settings, limits, metrics)
        embedder = None if embeddings is None else Embedder(embeddings, worker.length, loaded.compute)
        with waiting(COMPILING_MODEL):
            worker.warm_up()
            if embedder is not None:
                embedder.warm_up(served)
        worker.start()
        service = Service(worker, limits, metrics, embedder)
        server = Server(application(service, keys, only_local=is_loopback(host) and not keys), worker, limits, say)
        follower = Follower(source, worker, metrics, follow_seconds) if follow else None
        if follower is not None:
            follower.start()
        shown = f"[{host}]" if ":" in host else host
        step = "" if served.step is None else f", step {served.step}"
        listener.listen()  # a client that reads the next line may connect at once
        say(f"serving {served.name}{step} at http://{shown}:{listener.getsockname()[1]}")
        say(f"its parameters take {stored_bytes(served.model) / 1e6:,.1f} MB")
        try:
            server.run([listener])
            end_within(_CLOSING_SECONDS, 0)
        finally:
            if follower is not None:
                follower.stop()
            worker.stop()
            if not service.close():
                say("a request that is being prepared does not end; the process ends without it")
                os._exit(0)  # such a thread would also hold the end of the interpreter
