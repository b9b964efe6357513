"""/metrics, /healthz and /readyz, served by the operator's own event loop: if it hangs, the kubelet gets no answer and
restarts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from halcyon_operator.run.metrics import Metrics


class HttpServer:
    """The server for Prometheus and the kubelet.

    Args:
        metrics: The metrics of /metrics.
        problem: Why the operator must be restarted; empty: it is healthy.
        ready: Whether its watch cache is full, so that it works or can take over.
    """

    def __init__(self, metrics: Metrics, problem: Callable[[], str], ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._problem = problem
        self._ready = ready
        app = web.Application()
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/healthz", self._show_health)
        app.router.add_get("/readyz", self._show_readiness)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, port: int) -> None:
        """Listen on all addresses."""
        await self._runner.setup()
        await web.TCPSite(self._runner, None, port).start()

    async def stop(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    async def _show_metrics(self, _: web.Request) -> web.Response:
        # In a thread, because a thousand runs have tens of thousands of samples.
        text = await asyncio.to_thread(generate_latest, self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_health(self, _: web.Request) -> web.Response:
        problem = self._problem()
        return web.Response(status=503, text=f"{problem}\n") if problem else web.Response(text="ok\n")

    async def _show_readiness(self, _: web.Request) -> web.Response:
        return (
            web.Response(text="ok\n")
            if self._ready()
            else web.Response(status=503, text="the watches are not filled yet\n")
        )
