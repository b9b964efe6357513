"""``kubectl halcyon profile`` asks the pods of a run, and says what they answered; ``halcyon profile-here`` asks the
process of a pod.
"""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from halcyon.commands.profile import profile_view, requested
from halcyon.host.errors import BadConfiguration
from halcyon.telemetry import ProfileRequests, TelemetryServer
from halcyon_cli import cluster
from halcyon_cli.kubectl import app
from tests.trainer.telemetry.fakes import Scene

SECRET = "of-the-pod"  # noqa: S105


class FakeRuns:
    """A run with two running pods, and one that has not started."""

    phases = ("Running", "Running", "Pending")

    def __init__(self, context: str | None, namespace: str | None) -> None:
        self.commands: list[tuple[str, list[str]]] = []

    def get(self, name: str) -> dict[str, Any]:
        return {"spec": {"telemetry": {"port": 9500}}}

    def pods(self, name: str) -> list[Any]:
        return [
            SimpleNamespace(metadata=SimpleNamespace(name=f"{name}-{number}"), status=SimpleNamespace(phase=phase))
            for number, phase in enumerate(self.phases)
        ]

    def execute(self, pod: str, command: list[str]) -> str:
        return " ".join(command)


@pytest.mark.parametrize(("options", "asked"), [((), ["run-0"]), (("--all",), ["run-0", "run-1"])])
def test_one_process_or_all_running_ones_are_asked(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], asked: list[str]
) -> None:
    monkeypatch.setattr(cluster, "Runs", FakeRuns)
    result = CliRunner().invoke(app, ["profile", "run", "--steps", "5", *options])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        *(f"{pod}: halcyon profile-here --steps 5 --port 9500" for pod in asked),
        "then: halcyon show profile ROOT",
    ]


def test_a_run_without_pods_has_no_step_to_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "Runs", FakeRuns)
    monkeypatch.setattr(FakeRuns, "phases", ("Pending",))
    result = CliRunner().invoke(app, ["profile", "run"])
    assert result.exit_code == 1
    assert "run run has no running pod" in result.output


def test_the_process_of_this_pod_is_asked_with_its_token() -> None:
    requests = ProfileRequests()
    with closing(TelemetryServer(Scene().reporter, 0, token=SECRET, profiles=requests)) as server:
        assert requested(4, server.port, SECRET).steps == 4
        assert requests.take() == 4
        with pytest.raises(BadConfiguration, match="must have this process's token"):
            requested(4, server.port, "wrong")
        port = server.port
    with pytest.raises(BadConfiguration, match="no process of a run answers on port"):
        requested(4, port, SECRET)
    with pytest.raises(BadConfiguration, match="HALCYON_SAVE_TOKEN is not set"):
        requested(4, port, "")


def test_a_stored_profile_names_the_slow_process() -> None:
    base = {
        "host": "node-a",
        "firstStep": 9,
        "steps": 3,
        "windowSeconds": 2.0,
        "stepSeconds": {"p50": 0.5, "p90": 0.6, "p99": 0.7},
    }
    speed = {
        "mfu": 0.41,
        "mfuFormula": "a x b / c",
        "peakFlopsPerSecond": 1e15,
        "secondsByCause": {"compile": 4.0, "join": 0.0},
    }
    numbers = {0: {**base, **speed, "collectiveSeconds": 1.0}, 1: {**base, "collectiveSeconds": 1.1}}
    numbers[2] = {**base, "host": "node-c", "collectiveSeconds": 0.1}
    shown = Console(width=200)
    with shown.capture() as captured:
        shown.print(profile_view("file:///root/profiles/x", numbers))
    text = captured.get()
    assert "the others wait for process 2 on node-c" in text
    assert "MFU 41.0% = a x b / c, peak 1e+15 FLOP/s" in text
    assert "compile 4.0 s" in text
    assert "join" not in text
