"""A proxy to the API server that can fall silent: open connections stay open but deliver no more bytes, as behind a
load balancer that has lost its state."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.suite.limits import limit


class Link:
    """Forwards bytes to one address, in a thread of the test."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Event] = set()
        self._over = asyncio.Event()
        self.port = 0

    def fall_silent(self) -> int:
        """Stop the delivery on all connections that are open now, and return their number.

        Later connections are served.
        """

        async def silence() -> int:
            silent = len(self._open)
            for connection in self._open:
                connection.set()
            self._open.clear()
            return silent

        return asyncio.run_coroutine_threadsafe(silence(), self._loop).result(limit(30))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent = asyncio.Event()
        self._open.add(silent)
        other_reader, other_writer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(_pass_on(reader, other_writer, silent), _pass_on(other_reader, writer, silent))
            if silent.is_set():
                await self._over.wait()
        finally:
            self._open.discard(silent)
            for one in (writer, other_writer):
                one.close()

    def run(self, ready: threading.Event) -> None:
        """Serve until `end` is called. Sets the port, then the event."""

        async def serve() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._over.wait()
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._loop.run_until_complete(serve())
        self._loop.close()

    def end(self) -> None:
        """Close all connections and stop serving."""
        self._loop.call_soon_threadsafe(self._over.set)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
    """Forward bytes until the sender closes, the receiver has closed, or the connection falls silent."""
    quiet = asyncio.ensure_future(silent.wait())
    try:
        while True:
            more = asyncio.ensure_future(reader.read(2**16))
            await asyncio.wait({quiet, more}, return_when=asyncio.FIRST_COMPLETED)
            if silent.is_set():
                more.cancel()
                return
            with contextlib.suppress(ConnectionError):
                if data := await more:
                    writer.write(data)
                    await writer.drain()
                    continue
            writer.close()
            return
    finally:
        quiet.cancel()


@contextmanager
def linked(kubeconfig: Path, folder: Path) -> Iterator[tuple[Link, Path]]:
    """A link to the API server of a kubeconfig, and a kubeconfig that connects through the link."""
    found = yaml.safe_load(kubeconfig.read_text())
    (cluster,) = found["clusters"]
    url = urlsplit(cluster["cluster"]["server"])
    assert url.hostname is not None
    assert url.port is not None
    link = Link(url.hostname, url.port)
    ready = threading.Event()
    thread = threading.Thread(target=link.run, args=(ready,), name="link")
    thread.start()
    try:
        assert ready.wait(limit(30)), "the link does not start"
        cluster["cluster"]["server"] = f"https://127.0.0.1:{link.port}"
        changed = folder / "linked.kubeconfig"
        changed.write_text(yaml.safe_dump(found))
        yield link, changed
    finally:
        link.end()
        thread.join()
