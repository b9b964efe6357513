"""A run whose batch size and sequence length change, killed around the change, has bitwise the losses of an undisturbed
run.

`halcyon data show` shows for each step of its log the data that the step was trained on.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from halcyon.commands.data import app
from halcyon_api.ends import ExitCode
from tests.trainer.run.test_resume import collect, document, seen_step, undisturbed
from tests.trainer.support.process_groups import each_restart

pytestmark = pytest.mark.slow

STEPS = 20
SIZES = {"sequenceLength": 32, "batchSchedule": [{"fromStep": 12, "batchSize": 4, "sequenceLength": 64}]}
HOST = {"slices": 1, "topology": "1x2"}
KILLS = (10, 12, 13)
"""Steps done at each kill.

The run saves every five steps, so a process killed before step 15 passes the change again.
"""


def counted(run: Path, step: int) -> float:
    """The number of targets with a weight in a step, as `halcyon data show` prints it."""
    shown = CliRunner().invoke(app, ["show", str(run), "--step", str(step), "--no-text"])
    assert shown.exit_code == 0, shown.output
    return sum(map(float, re.findall(r"(?m)^row \d+: .* (\S+) of \d+ targets count$", shown.output)))


def test_sigkills_before_at_and_after_a_change_of_sizes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(200):  # short documents: the number that begins in a step differs from step to step
        (tmp_path / "corpus" / f"{number}.txt").write_text(
            f"{number} times {number} is {number**2}. " * (1 + number % 7)
        )
    expected = undisturbed(tmp_path, STEPS, **SIZES, **HOST)
    run = document(tmp_path, "root", STEPS, **SIZES, **HOST)
    losses: dict[int, float] = {}
    tokens: dict[int, float] = {}
    kills = [*KILLS]
    monkeypatch.setenv("HANG", f"{kills[0]},0")
    for group in each_restart(run, tmp_path / "run", module="tests.trainer.support.trouble_child"):
        if not kills:
            assert group.wait() == [ExitCode.DONE]
        else:
            group.leader.wait_for(seen_step(kills.pop(0) - 1))
            group.leader.popen.kill()
            assert group.wait() == [-signal.SIGKILL]
            monkeypatch.setenv("HANG", f"{kills[0] if kills else -1},0")
        collect(losses, group, expected)
        tokens |= {event["step"]: event["tokens"] for event in group.leader.events if event.get("event") == "step"}
    assert losses == expected
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    shown = {step: counted(tmp_path / "run.yaml", step) for step in range(1, STEPS + 1)}
    assert shown == tokens
    assert len(set(shown.values())) > 5, "the number of counted targets must differ between steps"
