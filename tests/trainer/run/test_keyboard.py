"""Training in a terminal: Ctrl-C saves the steps, a second Ctrl-C exits at once, and a port in use is replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from halcyon_api.ends import ExitCode
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document

pytestmark = pytest.mark.slow

Event = dict[str, Any]

HEARS_INTERRUPTS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Replaces itself by another program that receives SIGINT, even if the tests run in the background and ignore it."""


class Typed:
    """`halcyon train` as a user starts it in a terminal, in its own session."""

    def __init__(self, document: dict[str, Any], folder: Path) -> None:
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        self._process = subprocess.Popen(
            [sys.executable, "-c", HEARS_INTERRUPTS, sys.executable, "-m", "halcyon.commands.main", "train", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("HALCYON_")},
        )
        self.events: list[Event] = []

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Read events up to the first wanted one, and return it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        raise AssertionError(self.events)

    def interrupt(self) -> None:
        """Send SIGINT to every process of the group, as Ctrl-C does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> tuple[int, Event]:
        """Wait for the end; returns exit code and last event."""
        assert self._process.stdout is not None
        self.events += map(json.loads, self._process.stdout)
        return self._process.wait(limit(60)), self.events[-1]

    def kill(self) -> None:
        """Send SIGKILL to the process, and wait for its end."""
        self._process.kill()
        self._process.wait(limit(60))

    def reap(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Typed]]:
    begun: list[Typed] = []

    def begin(document: dict[str, Any]) -> Typed:
        begun.append(Typed(document, tmp_path))
        return begun[-1]

    yield begin
    for one in begun:
        one.reap()


def step(number: int) -> Callable[[Event], bool]:
    return lambda event: event["event"] == "step" and event["step"] >= number


def long_run(tmp_path: Path, **telemetry: Any) -> dict[str, Any]:
    document = run_document(tmp_path / "root", slices=1, steps=10**6)
    document["spec"]["checkpoint"]["save"] = {"everySteps": 10**6}
    document["spec"]["telemetry"] = telemetry
    return document


def test_an_interrupt_saves_and_the_next_start_continues(
    tmp_path: Path, start: Callable[[dict[str, Any]], Typed]
) -> None:
    first = start(long_run(tmp_path))
    first.until(step(3))
    first.interrupt()
    code, last = first.end()
    assert code == ExitCode.PREEMPTED
    assert (last["event"], last["saved"]) == ("preempted", "step")
    saved = last["step"]
    assert last["message"] == f"stopped by you; step {saved} is saved"
    assert any("a second Ctrl-C" in event.get("message", "") for event in first.events)
    second = start(long_run(tmp_path))
    assert second.until(lambda event: event["event"] == "restored")["step"] == saved


def test_a_second_training_in_the_root_is_rejected_and_after_a_kill_it_goes_on(
    tmp_path: Path, start: Callable[[dict[str, Any]], Typed]
) -> None:
    first = start(long_run(tmp_path))
    first.until(step(2))
    again = [sys.executable, "-m", "halcyon.commands.main", "train", str(tmp_path / "run.yaml")]
    rejected = subprocess.run(again, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert rejected.returncode == ExitCode.ROOT_TAKEN
    assert re.match(
        rf"process \d+ \(.* trains in checkpoint root {tmp_path}/root already; stop it with", rejected.stderr
    )
    seen = len(first.events)
    first.until(step(first.events[-1].get("step", 2) + 2))
    assert len(first.events) > seen, "the first training goes on"
    first.kill()
    second = start(long_run(tmp_path))
    second.until(step(1))


def test_a_second_interrupt_exits_at_once(tmp_path: Path, start: Callable[[dict[str, Any]], Typed]) -> None:
    run = start(long_run(tmp_path))
    run.until(step(1))
    run.interrupt()
    run.interrupt()
    code, _ = run.end()
    # The training thread may report one more step while the process ends.
    last = next(event for event in reversed(run.events) if event["event"] != "step")
    # The save of this small state may finish before the second interrupt, which then has nothing to interrupt.
    assert (code, last["event"]) in ((ExitCode.FAILURE, "error"), (ExitCode.PREEMPTED, "preempted"))
    if last["event"] == "error":
        assert last["message"].startswith("stopped by you at once; start again to go on from")


def test_a_port_in_use_is_replaced_by_a_free_one_that_is_reported(
    tmp_path: Path, start: Callable[[dict[str, Any]], Typed]
) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = start(long_run(tmp_path, port=port))
        sentence = run.until(lambda event: event["event"] == "warning")["message"]
        found = re.fullmatch(
            rf"port {port} is in use on this machine, so /status and /metrics are at (http://localhost:\d+)", sentence
        )
        assert found is not None, sentence
        assert httpx.get(f"{found[1]}/status", timeout=limit(10)).json()["run"] == run.events[-1]["run"]


def test_a_run_saves_and_ends_at_the_time_of_its_budget(
    start: Callable[[dict[str, Any]], Typed], tmp_path: Path
) -> None:
    run = long_run(tmp_path)
    run["spec"]["budget"] = {"until": in_seconds(limit(20))}
    timed = start(run)
    timed.until(step(1))
    code, last = timed.end()
    assert (code, last["event"], last["saved"]) == (ExitCode.PREEMPTED, "preempted", "step")


def test_a_run_whose_budget_has_passed_does_not_start(tmp_path: Path) -> None:
    run = long_run(tmp_path)
    run["spec"]["budget"] = {"until": in_seconds(-5)}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "halcyon.commands.main", "train", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit(60))
    said = f"spec.budget.until: {run['spec']['budget']['until']} has passed; give the run a later time"
    assert (ended.returncode, said in ended.stderr) == (ExitCode.BAD_CONFIGURATION, True)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
