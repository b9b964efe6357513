"""Each part runs its own tests, and a few that failed are repeated alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite import run
from tests.suite.limits import limit
from tests.suite.run import REPEATED, REPEATS, failed_tests, pytest_command, record_arguments, repeat_commands, workers
from tests.suite.tiers import SuitePart, Tier, expression


@pytest.mark.parametrize("part", SuitePart)
def test_each_part_runs_its_own_tests_spread_as_they_can_be(part: SuitePart) -> None:
    command = pytest_command(part, Tier.TEST, 2)
    assert command[command.index("-m", 3) + 1] == expression(part, Tier.TEST)
    assert (command[command.index("-n") + 1] == "0") == (part is SuitePart.ALONE)
    assert workers(SuitePart.CLUSTER, 64) == workers(SuitePart.CLUSTER, 2), "all share one node"


def test_a_few_failed_tests_are_repeated_alone_and_must_pass_each_time() -> None:
    commands = repeat_commands(["a.py::one", "a.py::two[x y]", "a.py::one"])
    assert len(commands) == REPEATS
    assert all(command[-4:] == ["-n", "0", "a.py::one", "a.py::two[x y]"] for command in commands)
    assert repeat_commands([]) == []
    assert repeat_commands([f"a.py::{number}" for number in range(REPEATED + 1)]) == []


def test_the_failed_tests_of_a_part_are_those_of_its_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FOLDER", tmp_path / "kept")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", *record_arguments(SuitePart.FAST), "test_it.py"]
    for number in (0, 1):
        (tmp_path / "test_it.py").write_text(f"def test_{number}(): assert False\ndef test_right(): pass\n")
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=limit(60), check=False)
        assert ended.returncode == run.TESTS_FAILED, ended.stdout
        assert failed_tests(SuitePart.FAST) == (f"test_it.py::test_{number}",)
    assert 'name="test_right"' in (tmp_path / "kept" / "fast.xml").read_text()
