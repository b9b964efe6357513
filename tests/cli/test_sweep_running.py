"""`halcyon sweep` trains the variants of a sweep on this machine."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon.host.storage.store import Store
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.history.reading import read_history
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_cli import sweep_running
from halcyon_cli.output import Rejected
from halcyon_cli.sweep_members import Member, members_of
from halcyon_cli.sweep_running import End, SweepRunner
from halcyon_cli.sweeping import Result, best_of, best_sentence
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.suite.limits import limit
from tests.trainer.support.process_groups import run_document
from tests.trainer.telemetry.history.rows import Recorder, group, root, row

RATE = "spec.optimizer.learningRate"
CHILD = """#!/bin/sh
case $(basename "$5" .yaml) in
    *-1) echo '{"event":"step","step":3,"loss":1.5}'; echo '{"event":"done","message":"all done"}';;
    *-2) echo '{"event":"error","message":"no text"}'; exit 80;;
    *-3) echo 'no document' >&2; exit 1;;
    *-4) kill -KILL $$;;
    *) trap 'echo "{\\"event\\":\\"preempted\\",\\"message\\":\\"saved\\"}"; exit 42' INT
       echo '{"event":"step","step":1,"loss":"NaN"}'; while :; do sleep 0.02; done;;
esac
"""
"""In the place of `halcyon train`: ends as the number of the variant says."""


@dataclass
class Shown:
    """Keeps what is shown, and interrupts at the first step of a member."""

    interrupt_at: str = ""
    lines: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def began(self, member: Member) -> None:
        self.lines.append((member.name, "began"))

    def step(self, member: Member, step: int, loss: float | None) -> None:
        self.lines.append((member.name, step, loss))
        if member.name == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def ended(self, member: Member, end: End) -> None:
        self.lines.append((member.name, end.state))


def written(folder: Path, sweep: Any) -> tuple[Path, Path]:
    paths = folder / "run.yaml", folder / "sweep.yaml"
    for path, content in zip(paths, (document(spec__optimizer={"adamw": {}}), sweep), strict=True):
        path.write_text(yaml.safe_dump(content))
    return paths


def members(folder: Path, count: int) -> tuple[Member, ...]:
    return members_of(*written(folder, {"grid": {RATE: [number / 1000 for number in range(1, count + 1)]}}))


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.sh"
    script.write_text(CHILD)
    script.chmod(0o755)
    monkeypatch.setattr(sweep_running.sys, "executable", str(script))


@pytest.mark.usefixtures("child")
def test_a_failed_member_is_shown_and_does_not_stop_the_others(tmp_path: Path) -> None:
    shown = Shown(interrupt_at="small-5")
    ends = SweepRunner(tmp_path, 1, False, (), shown).run(members(tmp_path, 6))
    assert ends == {
        "small-1": End("complete", "all done"),
        "small-2": End("failed", "no text"),
        "small-3": End("failed", "no document"),
        "small-4": End("failed", "killed by SIGKILL"),
        "small-5": End("stopped", "saved"),
        "small-6": End("not begun"),
    }
    assert shown.lines[:3] == [("small-1", "began"), ("small-1", 3, 1.5), ("small-1", "complete")]
    assert ("small-5", 1, None) in shown.lines


@pytest.mark.usefixtures("child")
def test_a_failed_member_stops_the_others_if_asked(tmp_path: Path) -> None:
    found = members(tmp_path, 6)
    shown = Shown()
    ends = SweepRunner(tmp_path, 2, True, (), shown).run((found[4], found[1], found[5]))
    assert [end.state for end in ends.values()] == ["stopped", "failed", "not begun"]


def test_members_have_names_and_roots_of_their_own(tmp_path: Path) -> None:
    for values, sentence in (
        ({"metadata.name": "a"}, r"metadata\.name: member 1 \(.*\) has the name a too"),
        ({"spec.checkpoint.root": "file:///a"}, r"spec\.checkpoint\.root: that of member 1"),
    ):
        with pytest.raises(Rejected, match=sentence):
            members_of(*written(tmp_path, {"list": [values, values]}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("file:///a/b", "file:///a/b/"),
        ("file:///a/b", "file:////a//b"),
        ("s3://bucket/x", "s3://bucket/x/"),
        ("s3://bucket/x/y", "s3://bucket//x///y"),
        ("gs://bucket/x/", "gs://bucket/x"),
        ("file://{}/real/x", "file://{}/link/x"),
    ],
)
def test_two_spellings_of_a_root_are_one_root(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    roots = [{"spec.checkpoint.root": root.format(tmp_path)} for root in (one, other)]
    with pytest.raises(Rejected, match=r"member 2 .*: spec\.checkpoint\.root: that of member 1 .* too; change it"):
        members_of(*written(tmp_path, {"list": roots}))


def result(folder: Path, member: Member, state: str, *losses: float, validation: float | None = None) -> Result:
    store = root(folder / member.name)
    recorder = Recorder(store.place, group(1, writer="a"), seconds=1.0)
    rows = [row(step, loss) for step, loss in enumerate(losses, start=1)]
    if validation is not None:
        rows.append(Row("evaluation", 2000.0, {"step": 1, "loss": validation, "seconds": 1.0}))
    recorder.flush(rows)
    return Result(member, read_history(store), End(state))  # type: ignore[arg-type]


def test_the_best_member_has_the_lowest_held_out_loss_or_the_lowest_last_loss(tmp_path: Path) -> None:
    one, two, three = members(tmp_path, 3)
    trained = [
        result(tmp_path / "a", one, "complete", 3.0, 2.0),
        result(tmp_path / "a", two, "complete", 1.0, 2.5),
        result(tmp_path / "a", three, "failed", 0.5),
    ]
    assert best_of(trained) is trained[0]
    assert (best_sentence(trained) or "").startswith(
        f"best: small-1 ({RATE} 0.001): loss 2.0000 at step 2; its root is /"
    )
    assert (best_sentence(trained) or "").endswith("; not compared: small-3")
    validation = [
        result(tmp_path / "b", one, "complete", 2.0, validation=4.0),
        result(tmp_path / "b", two, "complete", 3.0, validation=3.5),
    ]
    assert best_of(validation) is validation[1]
    assert best_of([*validation, trained[0]]) is None, "losses of different kinds are not compared"
    assert best_sentence([trained[2]]) is None


def test_a_member_whose_last_loss_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    one, two, _ = members(tmp_path, 3)
    trained = [result(tmp_path, one, "complete", 3.0, 1.0, math.nan), result(tmp_path, two, "complete", 2.0)]
    assert (best_sentence(trained) or "").startswith("best: small-2 ")
    assert (best_sentence(trained) or "").endswith("; not compared: small-1")


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_and_trains_no_complete_member_again(tmp_path: Path) -> None:
    base = run_document(tmp_path / "root", slices=1, name="small")
    base["spec"]["optimizer"]["schedule"] = {"constant": {}}
    paths = tmp_path / "run.yaml", tmp_path / "sweep.yaml"
    variants = [{"spec.trainer.steps": 5}, {"spec.trainer.steps": 400, RATE: 0.01}]
    for path, content in zip(paths, (base, {"list": variants}), strict=True):
        path.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "halcyon_cli.main", "sweep", *map(str, paths)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    head = tmp_path / "root" / "small-2" / "HEAD"
    until(head.exists, timeout_seconds=120, failure=lambda: "the second member has not begun")
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=limit(60))
    assert first.returncode == 1, output
    assert re.search(r"small-2 +400 +0\.01 +stopped", output), output
    assert "the same command goes on" in output

    again = subprocess.run(command, capture_output=True, text=True, timeout=limit(120), check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 2 members are complete already" in again.stdout
    assert "small-1: " not in again.stdout.replace("best: small-1: ", "")
    assert re.search(r"small-2 +400 +0\.01 +complete +400/400", again.stdout), again.stdout
    histories = [read_history(Store(CheckpointSpec(root=f"file://{tmp_path}/root/small-{one}"))) for one in (1, 2)]
    assert [(len(history.groups), history.done_steps) for history in histories] == [(1, 5), (2, 400)]
    assert [row["step"] for row in histories[1].steps] == list(range(1, 401))
