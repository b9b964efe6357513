"""The end of a process whose own steps fail or hang: it ends, with the exit code of its cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.ends import ExitCode
from tests.suite.limits import limit

pytestmark = pytest.mark.slow


def ended(fault: str, termination_log: Path) -> subprocess.CompletedProcess[str]:
    """The end of a completed training with this fault; see `tests.trainer.support.ending_child`."""
    return subprocess.run(
        [sys.executable, "-m", "tests.trainer.support.ending_child", fault, str(termination_log)],
        capture_output=True,
        text=True,
        timeout=limit(20),
        check=False,
    )


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "fault",
    [
        "close_listeners hangs",
        *(
            pytest.param(fault, marks=pytest.mark.variant)
            for fault in (
                "",
                "close_listeners fails",
                "close_listeners ends again",
                "close_listeners ends in another thread",
                "close fails",
                "close hangs",
            )
        ),
    ],
)
def test_an_end_that_hangs_or_fails_keeps_its_deadline_its_report_and_its_exit_code(tmp_path: Path, fault: str) -> None:
    done = ended(fault, tmp_path / "termination-log")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "termination-log").read_text())["cause"] == "completed"
    assert [event["event"] for event in events(done)] == ["done"]


@pytest.mark.variant
@pytest.mark.parametrize("fault", ["event fails", "event hangs", "ended fails", "ended ends again"])
def test_a_log_that_fails_at_the_end_changes_neither_report_nor_exit_code(tmp_path: Path, fault: str) -> None:
    done = ended(fault, tmp_path / "termination-log")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "termination-log").read_text())["cause"] == "completed"


@pytest.mark.variant
def test_an_end_without_a_progress_report_still_has_its_cause(tmp_path: Path) -> None:
    done = ended("report fails", tmp_path / "termination-log")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "termination-log").read_text())["cause"] == "completed"
    assert [event["event"] for event in events(done)] == ["done"]


@pytest.mark.variant
def test_a_termination_log_that_is_a_pipe_without_a_reader_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "termination-log")
    done = ended("", tmp_path / "termination-log")
    assert done.returncode == 0, done.stderr
    assert [event["event"] for event in events(done)] == ["warning", "done"]


@pytest.mark.variant
def test_an_error_ends_a_process_that_cannot_close_what_it_has_opened(tmp_path: Path) -> None:
    done = ended("error", tmp_path / "termination-log")
    assert done.returncode == ExitCode.BAD_CONFIGURATION, done.stderr
    assert json.loads((tmp_path / "termination-log").read_text())["message"] == "spec.data: there is no text"


@pytest.mark.variant
def test_the_kernel_ends_a_process_in_which_no_thread_can_run(tmp_path: Path) -> None:
    done = ended("close_listeners hangs with the interpreter", tmp_path / "termination-log")
    assert done.returncode == -signal.SIGALRM, done.stderr
    assert json.loads((tmp_path / "termination-log").read_text())["cause"] == "completed"
