"""A node without containers: it runs the commands of an exec request as processes of this machine, over the protocol of
a kubelet.

The API server connects to it as to any kubelet, so a test of exec uses the real API server, its rights and its proxy.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

NODE = "without-containers"
_PROTOCOLS = ("v5.channel.k8s.io",)
_STDIN, _STDOUT, _STDERR, _STATUS = range(4)


class Kubelet:
    """A server for exec requests.

    Attributes:
        port: Its port on the loopback.
        pods: Names of the pods in which commands have begun, in order.
    """

    def __init__(self, port: int) -> None:
        self.port, self.pods = port, list[str]()
        self._begun = threading.Condition()
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._loop = asyncio.new_event_loop()

    def node(self) -> dict[str, Any]:
        """The node as it is created; see `status`."""
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}

    def status(self) -> dict[str, Any]:
        """The status of the node, from which the API server knows where the kubelet is and what it can do."""
        return {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        }

    def await_pods(self, count: int, seconds: float) -> None:
        """Wait until commands have begun in so many pods."""
        with self._begun:
            assert self._begun.wait_for(lambda: len(self.pods) >= count, seconds), f"commands began in {self.pods}"

    def cut(self, pod: str) -> None:
        """End the connection of a pod's command, as the end of its node does."""
        asyncio.run_coroutine_threadsafe(self._cut(pod), self._loop).result()

    async def _cut(self, pod: str) -> None:
        transport = self._sockets[pod]._req.transport  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
        if transport is not None:
            transport.abort()

    @contextmanager
    def serving(self, certificate: Path, key: Path) -> Iterator[None]:
        """Serve inside the block, with a certificate that the API server trusts."""
        trusted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trusted.load_cert_chain(certificate, key)
        ready = threading.Event()
        thread = threading.Thread(target=self._serve, args=(trusted, ready), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def _serve(self, trusted: ssl.SSLContext, ready: threading.Event) -> None:
        application = web.Application()
        application.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        runner = web.AppRunner(application)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=trusted)
        self._loop.run_until_complete(site.start())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(_end(site))
        self._loop.close()

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        pod = request.match_info["pod"]
        found = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=0)
        await found.prepare(request)
        self._sockets[pod] = found
        process = await asyncio.create_subprocess_exec(*request.query.getall("command"), stdin=-1, stdout=-1, stderr=-1)
        with self._begun:
            self.pods.append(pod)
            self._begun.notify_all()
        inputs = asyncio.create_task(self._inputs(found, process))
        try:
            with suppress(ConnectionError):
                await asyncio.gather(*(self._outputs(found, process, channel) for channel in (_STDOUT, _STDERR)))
                await found.send_bytes(bytes([_STATUS]) + _status(await process.wait()))
        finally:
            inputs.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            # Reading stops at the end of a connection, so the pipes may never come to their end.
            process._transport.close()  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
            await process.wait()
            await found.close()
        return found

    async def _inputs(self, found: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        async for message in found:
            if message.type == WSMsgType.BINARY and message.data[:1] == bytes([_STDIN]):
                process.stdin.write(message.data[1:])
        with suppress(ProcessLookupError):
            process.kill()  # the connection has ended, and with it the pod of the test

    async def _outputs(self, found: web.WebSocketResponse, process: asyncio.subprocess.Process, channel: int) -> None:
        stream = process.stdout if channel == _STDOUT else process.stderr
        assert stream is not None
        while piece := await stream.read(1 << 15):
            await found.send_bytes(bytes([channel]) + piece)


async def _end(site: web.TCPSite) -> None:
    """Accept no more connections, and end those that are open."""
    await site.stop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # the transports close their sockets


def _status(code: int) -> bytes:
    """The Status of an exit code; a runtime reports a signal as 128 and its number."""
    if code == 0:
        return b'{"metadata":{},"status":"Success"}'
    cause = {"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}}).encode()
