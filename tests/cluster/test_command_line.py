"""`kubectl halcyon`, found by the real kubectl, about a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halcyon_demo.training import Training
from tests.cluster.whole_path import STEPS, WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


class Plugin:
    """The command as a user types it."""

    def __init__(self, path: WholePath) -> None:
        cluster = path.devcluster.cluster
        self._kubectl = str(cluster.kubectl.program)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": str(cluster.kubectl.kubeconfig),
            "COLUMNS": "200",
        }
        self._namespace = path.place.runs

    def __call__(self, *arguments: str, code: int = 0) -> str:
        command = [self._kubectl, "halcyon", *arguments, "--namespace", self._namespace]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def halcyon(path: WholePath) -> Plugin:
    return Plugin(path)


@pytest.fixture(scope="module")
def run(path: WholePath) -> Iterator[Training]:
    training = path.training("typed")
    training.apply()
    training.wait_for_step(30)
    yield training
    training.delete()


def test_a_life_from_the_keyboard(path: WholePath, halcyon: Plugin, run: Training) -> None:
    seen = halcyon("status", "typed")
    for words in ("Running", f"of {STEPS} steps", "tokens/s", "2 slices", "typed-1-s-0-0", "typed-1-s-1-0", "▁"):
        assert words in seen, words
    row = next(line for line in halcyon("top").splitlines() if " typed " in line)
    assert "Running" in row

    said = halcyon("checkpoint", "typed").split()
    assert said[:-1] == ["typed", "has", "saved", "step"]
    assert int(said[-1]) >= 30

    assert "Suspended" in halcyon("suspend", "typed", "--wait")
    assert "is Suspended and trains no step" in halcyon("checkpoint", "typed", code=1)
    assert "Suspended" in halcyon("status", "typed")
    assert "Running" in halcyon("resume", "typed", "--wait")
    halcyon("restart", "typed")

    followed = halcyon("logs", "typed", "--follow", "--raw")
    lines = [json.loads(line) for line in followed.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {0, 1}
    assert [line["time"] for line in lines if line["process"] == 0] == sorted(line["time"] for line in lines if line["process"] == 0)
    assert [line["step"] for line in lines if line["event"] == "done"] == [STEPS, STEPS]

    status, _ = path.finish(run)
    assert status.restarts.resumed == 2
    assert [entry.cause for entry in status.history] == ["suspended", "suspended", "completed"]
    report = json.loads(halcyon("report", "typed", "--json"))
    assert status.goodput is not None
    assert sum(report["seconds"].values()) == pytest.approx(report["wallSeconds"], abs=0.01)
    assert report["suspendedSeconds"] == pytest.approx(status.goodput.suspended_seconds)
    assert [world["ended"] for world in report["worlds"]] == ["suspended", "suspended", "completed"]


def test_what_is_not_there_is_one_sentence(halcyon: Plugin) -> None:
    for command in ("status", "logs", "report", "suspend"):
        said = halcyon(command, "nobody", code=1).strip()
        assert said.startswith("there is no TrainingRun nobody in namespace"), said
        assert len(said.splitlines()) == 1
