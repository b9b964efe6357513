"""The wait for a sandbox: no event is missed where a watch breaks off, and the wait ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon.evals.sandbox.pool import NoSandbox, WatchEnded, await_sandbox, sandbox_of


def claim(version: int, status: str = "", reason: str = "", *, sandbox: str = "") -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "reason": reason, "message": "why"}
    found = {"conditions": [ready] if status else [], "sandbox": {"name": sandbox}}
    return {"metadata": {"resourceVersion": str(version)}, "status": found}


class Server:
    """Answers reads and watches from a script; an empty watch breaks off."""

    def __init__(self, watches: list[list[dict[str, Any]]], reads: list[dict[str, Any] | None]) -> None:
        self._watches, self._reads = iter(watches), iter(reads)
        self.asked, self.pauses = list[tuple[str, float]](), 0

    def read(self) -> dict[str, Any] | None:
        return next(self._reads)

    def watch(self, version: str, seconds: float) -> Iterator[dict[str, Any]]:
        self.asked.append((version, seconds))
        events = next(self._watches)
        if not events:
            raise WatchEnded
        yield from events

    def pause(self) -> None:
        self.pauses += 1


def awaited(server: Server, *, seconds: float = 100.0) -> str:
    ticks = itertools.count(0.0, 1.0)
    return await_sandbox(claim(1), server.read, server.watch, seconds, lambda: next(ticks), server.pause)


def modified(found: dict[str, Any]) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": found}


def test_a_change_between_two_watches_is_not_missed() -> None:
    server = Server(
        [[], [modified(claim(6, "False", "DependenciesNotReady"))]], [claim(5), claim(7, "True", sandbox="one")]
    )
    assert awaited(server) == "one"
    assert [version for version, _ in server.asked] == ["1", "5"]
    assert server.pauses == 1


def test_a_sandbox_without_a_name_is_not_ready() -> None:
    assert sandbox_of(claim(1, "True")) is None
    assert sandbox_of({"metadata": {}}) is None


def test_the_wait_ends_at_its_time() -> None:
    server = Server([[modified(claim(2, "False", "SandboxNotReady"))]] * 9, [claim(2, "False", "SandboxNotReady")] * 9)
    with pytest.raises(NoSandbox, match=r"has no free sandbox after 5 s \(SandboxNotReady: why\)"):
        awaited(server, seconds=5.0)
    assert [seconds for _, seconds in server.asked] == [4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("watches", "reads", "message"),
    [
        ([[{"type": "DELETED", "object": claim(2)}]], [], "the claim was deleted"),
        ([[]], [None], "the claim was deleted"),
        ([[modified(claim(2, "False", "WarmPoolNotFound"))]], [], r"WarmPoolNotFound \(why\)"),
    ],
    ids=["deleted", "deleted between two watches", "final reason"],
)
def test_a_claim_that_gets_no_sandbox_is_not_waited_for(
    watches: list[list[dict[str, Any]]], reads: list[dict[str, Any] | None], message: str
) -> None:
    with pytest.raises(NoSandbox, match=message):
        awaited(Server(watches, reads))
