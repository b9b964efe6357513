"""The script of `helm test`, with the operator's own HTTP server."""

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from halcyon_operator.run.metrics import HttpServer, Metrics
from tests.chart.conftest import CHART
from tests.ports import free_port
from tests.suite.limits import limit


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("ask_operator", CHART / "files" / "ask_operator.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    return module


@contextmanager
def serving(*, ready: bool) -> Iterator[int]:
    """The operator's server in a thread. Yields its port."""
    port = free_port()
    loop = asyncio.new_event_loop()
    server = HttpServer(Metrics("1.2"), problem=lambda: "", ready=lambda: ready)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(port), loop).result(limit(10))
        yield port
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(limit(10))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_the_script_passes_for_a_ready_operator(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(ready=True) as port:
        script.main("127.0.0.1", port)
    assert "is ready and serves its metrics" in capsys.readouterr().out


def test_the_script_fails_for_an_operator_that_is_not_ready(script: ModuleType) -> None:
    with (
        serving(ready=False) as port,
        pytest.raises(SystemExit, match="is not ready: /readyz answers 503: the watches are not filled yet"),
    ):
        script.main("127.0.0.1", port)


def test_the_script_fails_without_an_operator(script: ModuleType) -> None:
    with serving(ready=True) as port:
        pass
    with pytest.raises(SystemExit, match="is not ready"):
        script.main("127.0.0.1", port)
