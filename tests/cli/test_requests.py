"""Each command on a run says what will really happen to it, in each phase."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from halcyon_cli.cluster import Runs
from halcyon_cli.commands.requests import checkpoint, refresh, restart, resume, suspend
from tests.cli.api_server import Server, run

SAVED = {"step": 7, "attempt": 1, "path": "steps/7", "time": "2026-03-01T12:00:00Z"}
BUDGET = {
    "type": "Ready",
    "status": "True",
    "reason": "BudgetSpent",
    "message": "spec.budget.money: 5.00 of 5.00 is used; suspended; raise spec.budget to go on",
    "lastTransitionTime": "2026-03-01T12:00:00Z",
}
NOTHING = "is {}, so it saves nothing; it stays suspended until resume"
AGAIN = "reads its defaults again"
NEVER = ("Pending", "Queued", "Starting", "Running", "Restarting")

SAID: dict[Any, dict[str, str]] = {
    suspend: {
        "Pending": f"small {NOTHING.format('Pending')}",
        "Queued": f"small {NOTHING.format('Queued')}",
        "Starting": "small releases its hardware; it saves before if it trains by then",
        "Running": "small saves and releases its hardware",
        "Restarting": "small releases its hardware; it saves before if it trains by then",
        "Suspending": "small is Suspending already",
        "Suspended": "small is Suspended already",
        "Succeeded": "! run small is Succeeded, so there is nothing to suspend",
        "Failed": f"small {NOTHING.format('Failed')}",
    },
    resume: {
        **{phase: f"small is {phase} and is not suspended" for phase in NEVER},
        "Suspending": "small goes on from step 7",
        "Suspended": "small goes on from step 7",
        "Succeeded": "! run small is Succeeded, so there is nothing to resume",
        "Failed": "! run small is Failed, and not because of a suspension",
    },
    restart: {
        "Pending": "! run small is Pending and has no pods to replace",
        "Queued": "small goes on with new pods",
        "Starting": "small goes on with new pods",
        "Running": "small saves, and goes on with new pods",
        "Restarting": "small goes on with new pods",
        "Suspending": "! run small is Suspending and has no pods to replace",
        "Suspended": "! run small is Suspended and has no pods to replace",
        "Succeeded": "! run small is Succeeded and has no pods to replace",
        "Failed": "small goes on with new pods",
    },
    checkpoint: {
        **dict.fromkeys((*NEVER, "Suspending"), "small: checkpoint requested"),
        **{
            phase: f"! run small is {phase} and trains no steps, so there is nothing new to save; its newest checkpoint "
            "is of step 7"
            for phase in ("Suspended", "Succeeded", "Failed")
        },
    },
    refresh: {
        **dict.fromkeys((*NEVER, "Suspending", "Failed"), f"small {AGAIN}"),
        "Running": f"small {AGAIN}; changes that need new pods wait for a checkpoint",
        "Suspended": "small is Suspended and reads its defaults again when it is resumed",
        "Succeeded": "! run small is Succeeded, so its defaults have no effect any more",
    },
}


def said_by(command: Any, server: Server, capsys: pytest.CaptureFixture[str], **document: Any) -> str:
    """What a command without a wait says: a rejection begins with `! ` and changes nothing."""
    server.run = run(5) | document
    options = {} if command is suspend or command is resume or command is refresh else {"wait": False}
    try:
        command("small", **options)
    except typer.Exit:
        assert server.patches == []
        return "! " + capsys.readouterr().err.strip()
    assert len(server.patches) == 1
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("command", "phase", "said"),
    [(command, phase, said) for command, phases in SAID.items() for phase, said in phases.items()],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:12],
)
def test_a_command_says_what_happens_in_each_phase(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str], command: Any, phase: str, said: str
) -> None:
    spec = {"suspend": phase in ("Suspending", "Suspended")}
    assert said_by(command, server, capsys, spec=spec, status={"phase": phase, "checkpoint": SAVED}) == said


@pytest.mark.parametrize("command", SAID, ids=lambda command: command.__name__)
def test_a_run_that_is_being_deleted_takes_no_request(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str], command: Any
) -> None:
    metadata = {"name": "small", "resourceVersion": "5", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    said = said_by(command, server, capsys, metadata=metadata)
    assert said == "! run small is being deleted; its checkpoints stay in its root"


@pytest.mark.parametrize(
    ("spec", "status", "said"),
    [
        ({"suspend": True}, {"phase": "Suspended"}, "small begins at step 0"),
        ({"suspend": True}, {"phase": "Running", "checkpoint": SAVED}, "small goes on from step 7"),
        ({}, {"phase": "Suspended", "conditions": [BUDGET]}, f"! run small stays Suspended: {BUDGET['message']}"),
    ],
)
def test_resume_knows_why_a_run_is_suspended(
    server: Server,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    spec: dict[str, Any],
    status: dict[str, Any],
    said: str,
) -> None:
    assert said_by(resume, server, capsys, spec=spec, status=status) == said


def test_a_run_without_budget_can_be_held_beyond_the_budget(
    server: Server, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_by(suspend, server, capsys, status={"phase": "Suspended", "conditions": [BUDGET]})
    assert said == f"small {NOTHING.format('Suspended')}"


@pytest.mark.parametrize(
    ("refusal", "found"),
    [
        (None, ""),
        ((403, 'trainingruns "small" is forbidden: User "eve" cannot update resource'), None),
        ((403, "admission policy denied the request"), "admission policy denied the request"),
    ],
)
def test_a_document_that_the_user_may_not_send_is_not_said_to_be_accepted(
    server: Server, runs: Runs, refusal: tuple[int, str] | None, found: str | None
) -> None:
    server.refusal = refusal
    assert runs.rejection_reason("small", {"spec": {}}) == found
