"""`kubectl halcyon`, found by the real kubectl.

Its output for a training run is also tested in tests/cluster/test_whole_path.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from halcyon_demo.documents import variant
from halcyon_demo.training import Training
from tests.cluster.life import UNENDING
from tests.cluster.plugin import Plugin
from tests.cluster.scripted import Runs, counts
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def halcyon(runs: Runs) -> Plugin:
    return Plugin(runs.devcluster.kubectl, runs.namespace)


def test_commands_save_suspend_resume_and_restart(runs: Runs, halcyon: Plugin, name: str) -> None:
    runs.apply(name)
    runs.training(name)
    output = halcyon("checkpoint", name).split()
    assert output[:-1] == [name, "has", "saved", "step"]
    assert int(output[-1]) >= 1
    assert "Suspended" in halcyon("suspend", name, "--wait")
    assert "is Suspended and trains no step" in halcyon("checkpoint", name, code=1)
    assert "Suspended" in halcyon("status", name)
    assert "Running" in halcyon("resume", name, "--wait")
    assert f"{name} goes on as attempt 3" in halcyon("restart", name)
    restart_and_die(runs, halcyon, name)
    status = runs.status(name)
    assert [entry.get("cause") for entry in status["history"]] == ["suspended", "requested", "requested", None]
    assert counts(status) == {"resumed": 1, "requested": 2}


def test_a_missing_run_is_reported_in_one_sentence(halcyon: Plugin) -> None:
    for command in ("status", "logs", "report", "suspend"):
        output = halcyon(command, "nobody", code=1).strip()
        assert output.startswith("there is no TrainingRun nobody in namespace"), output
        assert len(output.splitlines()) == 1


STEPS = 100_000
"""More than any machine makes before the last command, which sets an end soon after."""


@pytest.fixture
def real(path: WholePath) -> Iterator[Training]:
    document = variant(path.document, name="typed", steps=STEPS)
    document["spec"]["optimizer"] = UNENDING
    training = replace(path, document=document).training("typed")
    training.apply()
    training.wait_for_step(30)
    training.wait_for_phase("Running")  # the log is ahead of the status, and the plugin shows the status
    Runs(path.devcluster, path.place.runs).wait(
        "typed", "reporting tokens per second", lambda status: "tokensPerSecond" in status.get("progress", {}), 120
    )
    yield training
    training.delete()


@pytest.mark.variant
@pytest.mark.xdist_group("path")
def test_all_commands_work_on_a_real_run_and_cost_no_step(path: WholePath, real: Training) -> None:
    """A real run under all commands: their output, and no command costs a step."""
    halcyon = Plugin(path.devcluster.kubectl, path.place.runs)
    seen = halcyon.on_terminal("cli-status", 110, "status", "typed")
    for words in ("Running", f"of {STEPS:,} steps", "tokens/s", "2 slices", "typed-1-s-0-0", "typed-1-s-1-0", "▁"):
        assert words in seen, words

    output = halcyon("checkpoint", "typed").split()
    assert output[:-1] == ["typed", "has", "saved", "step"]
    assert int(output[-1]) >= 30

    assert "Suspended" in halcyon("suspend", "typed", "--wait")
    assert "is Suspended and trains no step" in halcyon("checkpoint", "typed", code=1)
    assert "Suspended" in halcyon("status", "typed")
    assert "Running" in halcyon("resume", "typed", "--wait")
    assert "typed goes on as attempt 3" in halcyon("restart", "typed")
    restart_and_die(Runs(path.devcluster, path.place.runs), halcyon, "typed")
    steps = end_soon(path, halcyon)

    followed = halcyon("logs", "typed", "--follow", "--raw")
    lines = [json.loads(line) for line in followed.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {0, 1}
    assert [line["time"] for line in lines if line["process"] == 0] == sorted(
        line["time"] for line in lines if line["process"] == 0
    )
    assert [line["step"] for line in lines if line["event"] == "done"] == [steps, steps]

    status, _ = path.finish(real)
    assert (status.restarts.resumed, status.restarts.requested, status.restarts.total) == (2, 2, 4)
    ends = ["suspended", "requested", "requested", "suspended", "completed"]
    assert [entry.cause for entry in status.history] == ends
    for before, after in pairwise(status.history):
        assert before.to_step is not None
        assert after.from_step is not None
        assert after.from_step >= before.to_step, "no step may be done twice"
    report = json.loads(halcyon("report", "typed", "--json"))
    assert status.goodput is not None
    assert status.goodput.lost_steps == 0
    assert sum(report["seconds"].values()) == pytest.approx(report["wallSeconds"], abs=0.01)
    assert report["suspendedSeconds"] == pytest.approx(status.goodput.suspended_seconds)
    assert [group["ended"] for group in report["processGroups"]] == ends
    shown = halcyon.on_terminal("cli-report", 110, "report", "typed")
    assert f"Succeeded, {report['ratio']:.1%} goodput" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[2] for row in rows if row and row[0] in ("1", "2", "3", "4", "5")] == ends


def restart_and_die(runs: Runs, halcyon: Plugin, name: str) -> None:
    """Request a fourth attempt by a command that is killed before the attempt exists."""
    with halcyon.begun("restart", name) as command:
        assert command.stdout is not None
        assert "saves, and goes on with new pods" in command.stdout.readline()
        command.kill()

    def restarted(status: dict[str, Any]) -> bool:
        return (status["attempt"], status["phase"], status["restart"]["outcome"]) == (4, "Running", "restarted")

    runs.wait(name, "restarted", restarted, 120)
    assert not runs.get(name)["spec"].get("suspend")


def end_soon(path: WholePath, halcyon: Plugin) -> int:
    """Suspend the run and resume it with 50 more steps, so that no machine is too fast for the test.

    Returns the last step.
    """
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    halcyon("suspend", "typed", "--wait")
    steps = kubectl.json("get", "trainingrun", "typed", *where)["status"]["checkpoint"]["step"] + 50
    patch = json.dumps({"spec": {"suspend": False, "trainer": {"steps": steps}}})
    kubectl("patch", "trainingrun", "typed", *where, "--type=merge", f"--patch={patch}")
    return steps
