"""`restart` sets one annotation and watches: whatever happens to the command, the operator does the rest."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import typer

from halcyon_api import names
from halcyon_cli.cluster import Runs
from halcyon_cli.commands.requests import restart
from tests.cli.api_server import Server, event, run
from tests.suite.limits import limit


def seen(version: int, phase: str, value: str, outcome: str, attempt: int, annotated: str = "") -> dict[str, Any]:
    asked = {"value": value, "requestedAt": "2026-03-01T12:00:00Z", "attempt": 1, "outcome": outcome}
    found = run(version) | {"status": {"phase": phase, "attempt": attempt, "restart": asked}}
    found["metadata"]["annotations"] = {names.ANNOTATION_RESTART: annotated or value}
    return found


def value_of(server: Server) -> str:
    (patch,) = server.patches
    ((name, value),) = patch["metadata"]["annotations"].items()
    assert (list(patch), list(patch["metadata"]), name) == (["metadata"], ["annotations"], "halcyon.dev/restart")
    return value


def send_states(server: Server, *states: tuple[str, str, int], value: str = "") -> threading.Thread:
    """Send these states of the restart once the command watches."""

    def tell() -> None:
        server.watched.get(timeout=limit(20))
        asked = value_of(server)
        for number, (phase, outcome, attempt) in enumerate(states):
            server.events.put(event("MODIFIED", seen(6 + number, phase, value or asked, outcome, attempt)))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    return thread


def test_restart_sets_one_annotation_and_returns_when_the_next_attempt_trains(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.run = seen(5, "Running", "an older one", "restarted", 1, annotated="the new one")
    story = [
        ("Running", "waiting", 1),
        ("Restarting", "waiting", 1),
        ("Restarting", "restarted", 2),
        ("Running", "restarted", 2),
    ]
    thread = send_states(server, *story)
    restart("small")
    thread.join()
    assert capsys.readouterr().out.splitlines() == [
        "small saves, and goes on with new pods",
        "Running",
        "Restarting",
        "Running",
        "small goes on as attempt 2",
    ]


def test_a_request_replaced_by_a_later_one_is_served_by_its_restart(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = send_states(server, ("Running", "waiting", 1), ("Running", "restarted", 2), value="somebody else's")
    restart("small")
    thread.join()
    assert capsys.readouterr().out.endswith("small goes on as attempt 2\n")


def test_restart_without_wait_returns_at_once(server: Server, runs: Runs) -> None:
    restart("small", wait=False)
    assert value_of(server)
    assert server.looks == 1


@pytest.mark.parametrize("phase", ["Suspended", "Succeeded"])
def test_a_suspended_or_finished_run_is_not_restarted(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str], phase: str
) -> None:
    server.run = run(5, phase)
    with pytest.raises(typer.Exit):
        restart("small")
    assert (capsys.readouterr().err, server.patches) == (f"run small is {phase} and has no pods to replace\n", [])


def test_a_run_that_is_suspended_during_the_wait_is_reported(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = send_states(server, ("Suspending", "passedOver", 1))
    with pytest.raises(typer.Exit):
        restart("small")
    thread.join()
    assert capsys.readouterr().err == "run small is Suspending and has no pods to replace\n"


def test_an_invalid_document_is_reported_before_the_request(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "InvalidSpec", "message": "spec.x: fix it"}
    server.run = run(5) | {
        "status": {"phase": "Running", "conditions": [stalled | {"lastTransitionTime": "2026-03-01T12:00:00Z"}]}
    }
    with pytest.raises(typer.Exit):
        restart("small")
    assert server.patches == []
    assert capsys.readouterr().err == "run small cannot be restarted while its document is not valid: spec.x: fix it\n"


def test_an_interrupted_wait_does_not_cancel_the_restart(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("halcyon_cli.commands.requests.restarted", impatient)
    with pytest.raises(typer.Exit) as ended:
        restart("small")
    assert ended.value.exit_code == 130
    assert capsys.readouterr().out.endswith("the restart goes on without this command\n")
    assert value_of(server), "it must set one annotation, and no change needs to be undone"
