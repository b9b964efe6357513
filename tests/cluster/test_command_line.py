"""`kubectl halcyon`, found by the real kubectl, about a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.text import Text

from halcyon_api.checkpoint_documents import HEAD_KEY
from halcyon_dashboards.terminal import as_svg
from halcyon_demo.documents import variant
from halcyon_demo.training import Training
from halcyon_devcluster.waiting import until
from tests import pictures
from tests.cluster.whole_path import WholePath

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 100_000
"""More than any machine makes before the last command, which has the run end soon."""

UNENDING = {"adamw": {"schedule": {"constant": {}}}}
"""A schedule that does not depend on the number of steps, so that this may be edited."""


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

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        command = [self._kubectl, "halcyon", *arguments, "--namespace", self._namespace]
        variables = self._environment | environment
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout or done.stderr

    def begun(self, *arguments: str) -> subprocess.Popen[str]:
        """The command while it runs."""
        command = [self._kubectl, "halcyon", *arguments, "--namespace", self._namespace]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)

    def on_terminal(self, picture: str, columns: int, *arguments: str) -> str:
        """The text that a terminal of so many columns and all colours shows, which is kept as a picture."""
        text = self(*arguments, COLUMNS=str(columns), FORCE_COLOR="1", COLORTERM="truecolor", TERM="xterm-256color")
        shown = Text.from_ansi(text)
        assert shown.spans, "it has colours"
        pictures.keep(picture, as_svg(shown, " ".join(("kubectl halcyon", *arguments)), columns))
        return shown.plain


@pytest.fixture(scope="module")
def halcyon(path: WholePath) -> Plugin:
    return Plugin(path)


@pytest.fixture(scope="module")
def run(path: WholePath) -> Iterator[Training]:
    document = variant(path.document, name="typed", steps=STEPS)
    document["spec"]["optimizer"] = UNENDING
    training = replace(path, document=document).training("typed")
    training.apply()
    training.wait_for_step(30)
    training.wait_for_phase("Running")  # the log is ahead of the status, which is what the plugin shows
    yield training
    training.delete()


def test_a_life_from_the_keyboard(path: WholePath, halcyon: Plugin, run: Training) -> None:
    seen = halcyon.on_terminal("cli-status", 110, "status", "typed")
    for words in ("Running", f"of {STEPS:,} steps", "tokens/s", "2 slices", "typed-1-s-0-0", "typed-1-s-1-0", "▁"):
        assert words in seen, words
    row = next(line for line in halcyon.on_terminal("cli-top", 200, "top").splitlines() if " typed " in line)
    assert "Running" in row

    said = halcyon("checkpoint", "typed").split()
    assert said[:-1] == ["typed", "has", "saved", "step"]
    assert int(said[-1]) >= 30

    assert "Suspended" in halcyon("suspend", "typed", "--wait")
    assert "is Suspended and trains no step" in halcyon("checkpoint", "typed", code=1)
    assert "Suspended" in halcyon("status", "typed")
    assert "Running" in halcyon("resume", "typed", "--wait")
    assert "typed goes on as attempt 3" in halcyon("restart", "typed")
    restart_and_die(path, halcyon)
    steps = end_soon(path, halcyon)

    followed = halcyon("logs", "typed", "--follow", "--raw")
    lines = [json.loads(line) for line in followed.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {0, 1}
    assert [line["time"] for line in lines if line["process"] == 0] == sorted(line["time"] for line in lines if line["process"] == 0)
    assert [line["step"] for line in lines if line["event"] == "done"] == [steps, steps]

    status, _ = path.finish(run)
    assert (status.restarts.resumed, status.restarts.requested, status.restarts.total) == (2, 2, 4)
    ends = ["suspended", "requested", "requested", "suspended", "completed"]
    assert [entry.cause for entry in status.history] == ends
    for before, after in pairwise(status.history):
        assert before.to_step is not None
        assert after.from_step is not None
        assert after.from_step >= before.to_step, "no step is done twice"
    report = json.loads(halcyon("report", "typed", "--json"))
    assert status.goodput is not None
    assert status.goodput.lost_steps == 0
    assert sum(report["seconds"].values()) == pytest.approx(report["wallSeconds"], abs=0.01)
    assert report["suspendedSeconds"] == pytest.approx(status.goodput.suspended_seconds)
    assert [world["ended"] for world in report["worlds"]] == ends
    shown = halcyon.on_terminal("cli-report", 110, "report", "typed")
    assert f"Succeeded, {report['ratio']:.1%} goodput" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert [row[2] for row in rows if row and row[0] in ("1.0", "2.0", "3.0", "4.0", "5.0")] == ends


def restart_and_die(path: WholePath, halcyon: Plugin) -> None:
    """Whoever asks for a restart may be gone before it is made."""
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    with halcyon.begun("restart", "typed") as command:
        assert command.stdout is not None
        assert "saves, and goes on with new pods" in command.stdout.readline()
        command.kill()
    seen: dict[str, Any] = {}

    def restarted() -> bool:
        seen.update(kubectl.json("get", "trainingrun", "typed", *where)["status"])
        return (seen["attempt"], seen["phase"], seen["restart"]["outcome"]) == (4, "Running", "restarted")

    until(restarted, timeout_seconds=120, failure=lambda: f"no restart: {seen}")
    assert not kubectl.json("get", "trainingrun", "typed", *where)["spec"].get("suspend")


def end_soon(path: WholePath, halcyon: Plugin) -> int:
    """Have the run end some steps after the one that it is suspended at, which no machine can be too fast for. The step it ends with."""
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    halcyon("suspend", "typed", "--wait")
    steps = kubectl.json("get", "trainingrun", "typed", *where)["status"]["checkpoint"]["step"] + 50
    patch = json.dumps({"spec": {"suspend": False, "trainer": {"steps": steps}}})
    kubectl("patch", "trainingrun", "typed", *where, "--type=merge", f"--patch={patch}")
    return steps


def test_edits_a_clone_and_the_end_of_a_run(path: WholePath, halcyon: Plugin, tmp_path: Path) -> None:
    """An edit is told beforehand and costs no step; a clone does what its source did; a run that has ended goes, its checkpoints stay."""
    document = variant(path.document, name="any")
    document["spec"]["optimizer"] = UNENDING
    document["spec"]["trainer"] |= {"steps": 100_000, "evaluation": {"everySteps": 0}}
    long = replace(path, document=document)
    training = long.training("edited", save={"everySteps": 20})
    training.apply()
    training.wait_for_step(20)
    kubectl, where = path.devcluster.kubectl, ("--namespace", path.place.runs)
    stored = kubectl.json("get", "trainingrun", "edited", *where)
    file = tmp_path / "run.yaml"

    def diff(code: int, **trainer: Any) -> str:
        spec = stored["spec"] | {"trainer": stored["spec"]["trainer"] | trainer}
        file.write_text(
            yaml.safe_dump({key: stored[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "edited"}, "spec": spec})
        )
        return halcyon("diff", "edited", "--filename", str(file), code=code)

    assert diff(0) == "nothing differs\n"
    refused = diff(1, seed=7)
    assert "trainer.seed must not change while the run exists" in refused
    assert "frozen" in refused
    assert "greater than or equal to 1" in diff(2, steps=0)
    said = diff(1, logEverySteps=3)
    assert "trainer.logEverySteps  1" in said
    assert "applying restarts the run at a checkpoint that is made for it: no step is lost" in said

    kubectl("apply", *where, "--filename", str(file))
    seen: dict[str, Any] = {}

    def second_attempt() -> bool:
        seen.update(kubectl.json("get", "trainingrun", "edited", *where)["status"])
        return seen["attempt"] == 2 and seen["phase"] == "Running"

    until(second_attempt, timeout_seconds=120, failure=lambda: f"no second attempt: {seen}")
    halcyon("suspend", "edited", "--wait")
    steps = kubectl.json("get", "trainingrun", "edited", *where)["status"]["checkpoint"]["step"] + 50
    assert "applying resumes the run, from its last checkpoint" in diff(1, logEverySteps=3, steps=steps)
    kubectl("apply", *where, "--filename", str(file))
    status, lines = path.finish(training)
    assert [entry.cause for entry in status.history] == ["specChanged", "suspended", "completed"]
    first, second, _ = status.history
    assert first.message is not None
    assert first.message.startswith("the spec was edited: trainer.logEverySteps; saved at step ")
    assert second.from_step is not None
    assert second.from_step >= int(first.message.rsplit(" ", 1)[1])
    assert status.goodput is not None
    assert status.goodput.lost_steps == 0
    assert (status.edit, status.progress.step if status.progress else 0) == (None, steps)
    assert "the run has succeeded" in diff(1, logEverySteps=2, steps=steps)

    earlier = (steps - 1) // 20 * 20
    document["spec"] |= {"from": {"run": "edited", "step": earlier}, "trainer": document["spec"]["trainer"] | {"steps": steps}}
    clone = long.training("cloned")
    clone.apply()
    clone.wait_for_step(earlier + 1)
    kubectl("patch", "trainingrun", "edited", *where, "--type=merge", "--patch", '{"spec": {"ttlSecondsAfterFinished": 0}}')
    kubectl("wait", "--for=delete", "trainingrun/edited", *where, "--timeout=60s")
    cloned, clone_lines = path.finish(clone)
    assert [(entry.from_step, entry.to_step) for entry in cloned.history] == [(earlier, steps)]
    own, others = ([line.fields["loss"] for line in found if line.event == "step" and line.step == steps] for found in (clone_lines, lines))
    assert (own, len(own)) == (others, 1), "bitwise"
    with path.root("edited") as root:
        assert root.get(HEAD_KEY).bytes(), "checkpoints stay"
    clone.delete()


def test_what_is_not_there_is_one_sentence(halcyon: Plugin) -> None:
    for command in ("status", "logs", "report", "suspend"):
        said = halcyon(command, "nobody", code=1).strip()
        assert said.startswith("there is no TrainingRun nobody in namespace"), said
        assert len(said.splitlines()) == 1
