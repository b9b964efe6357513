"""The end of a process whose collective fails because another process is gone."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from halcyon.run import process
from tests.suite.limits import limit
from tests.trainer.telemetry.fakes import Scene

GONE = "UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:15237"


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run `call` in a daemon thread: the end of a process keeps a lock, on which a second thread waits for ever."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("error", [ValueError(GONE), jax.errors.JaxRuntimeError(GONE)], ids=lambda e: type(e).__name__)
def test_the_lost_process_is_named_also_when_the_collective_fails_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failed, left = threading.Event(), threading.Event()
    monkeypatch.setattr(traceback, "print_exception", lambda error: failed.set())
    monkeypatch.setattr(process, "_exit", lambda cause: left.set())
    monkeypatch.setattr(process, "end_within", lambda seconds, code: None)
    monkeypatch.setattr(process, "_LIFELINE_SECONDS", 3600.0)
    log = tmp_path / "termination-log"
    context: Any = SimpleNamespace(process_count=2, process_index=0, in_pod=True, termination_log=log)
    ending = process._Ending("halcyon train run.yaml", context, Scene().reporter)

    in_thread(lambda: ending.failed(error))
    assert failed.wait(limit(20))
    assert not left.wait(limit(0.2)), "the process ended before the lifeline could say who is gone"
    in_thread(lambda: ending.lost(1))
    assert left.wait(limit(20))
    assert json.loads(log.read_text())["peerLost"] == 1
