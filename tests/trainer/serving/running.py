"""A server in this process, over a tiny Qwen 3 with its tokenizer and a template with tools."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai

from halcyon.serving.access import Keys
from halcyon.serving.embeddings import Embedder
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.routes import PAGE, application
from halcyon.serving.served import Served, Source
from halcyon.serving.server import Server, bound
from halcyon.serving.service import Service
from halcyon.serving.worker import EngineSettings, Worker
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit
from tests.trainer.weights.folders import GOLDENS

SETTINGS = EngineSettings(slots=4, length=192, pages=None, share="key", compute="float32")
TEMPLATE = """\
{%- if tools %}T{% for tool in tools %}{{ tool.function.name }}{% endfor %}<tool_call></tool_call>{% endif -%}
{%- if enable_thinking is defined %}{{ 'think' if enable_thinking else reasoning_effort }}{% endif -%}
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""


def write_model(folder: Path, *, template: str | None = None, scale: float = 1.0) -> Path:
    """The tiny model with room for 256 tokens. `scale` makes other weights."""
    shutil.copytree(GOLDENS / "qwen3", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if scale != 1.0:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        name = "model.embed_tokens.weight"
        changed = np.roll(tensors[name], 7, 0) * np.float32(scale)
        save_file(tensors | {name: changed}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass
class Running:
    """A server that runs."""

    url: str
    service: Service
    worker: Worker
    metrics: Metrics
    server: Server
    thread: threading.Thread
    lines: list[str]
    clients: list[openai.OpenAI]

    def openai(self, **settings: Any) -> openai.OpenAI:
        """The real client."""
        client = openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "none", "timeout": limit(120), "max_retries": 0, **settings}
        )
        self.clients.append(client)
        return client

    def http(self) -> httpx.Client:
        """A client that sees statuses and headers."""
        return httpx.Client(base_url=self.url, timeout=limit(120))

    def wait_until_idle(self) -> None:
        """Wait until no text is left; then every page must be free."""
        until(
            lambda: not self.worker.accepted,
            timeout_seconds=60,
            interval_seconds=0.02,
            failure=lambda: "texts are left",
        )
        free, pages = self.worker.free_pages
        assert free == pages


@contextmanager
def running(
    served: Served,
    limits: Limits,
    *,
    keys: Keys | None = None,
    page: Path = PAGE,
    only_local: bool = False,
    embedder: Embedder | None = None,
    settings: EngineSettings = SETTINGS,
) -> Iterator[Running]:
    """A server on a free port of this machine."""
    metrics, lines = Metrics(), []
    clients: list[openai.OpenAI] = []
    worker = Worker(served, settings, limits, metrics)
    worker.start()
    service = Service(worker, limits, metrics, embedder)
    server = Server(
        application(service, keys or Keys(()), only_local=only_local, page=page), worker, limits, lines.append
    )
    listener = bound("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    try:
        until(
            lambda: server.started,
            timeout_seconds=30,
            interval_seconds=0.01,
            failure=lambda: "the server does not start",
        )
        yield Running(url, service, worker, metrics, server, thread, lines, clients)
    finally:
        for client in clients:
            client.close()
        server.should_exit = True
        thread.join(limit(30))
        worker.stop(limit(30))
        service.close()


@contextmanager
def held(server: Running, after: int = 8) -> Iterator[threading.Event]:
    """The engine waits after some steps, so that texts are in flight until the event is set, however fast the machine
    is.
    """
    engine, gate, free = server.worker._current.engine, threading.Event(), iter(range(after))
    step = engine.step

    def waiting() -> Any:
        if next(free, None) is None:
            gate.wait(limit(60))
        return step()

    engine.step = waiting
    try:
        yield gate
    finally:
        gate.set()


def load(folder: Path) -> Served:
    """The model of a folder, under the name `tiny`."""
    return Source(f"hf:{folder}", "tiny").load()
