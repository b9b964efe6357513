"""The process of a stage: its events, its failure, and its end with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halcyon_chat import processes
from halcyon_chat.processes import Failed, event_of, last_lines, reason, run
from halcyon_devcluster.waiting import until

CHILD = (
    "import os, sys; from halcyon.commands import child, main; "
    "main.app = lambda: (print(os.getpid(), flush=True), sys.stdin.read()); child.main()"
)
"""A command of `halcyon` that waits, in the process that `start` begins."""


def test_events_are_json_objects() -> None:
    assert event_of(b'{"event": "step"}\n') == {"event": "step"}
    assert event_of(b"[1]\n") is event_of(b"words\n") is None


def test_reasons() -> None:
    assert reason(-9) == "the process was killed by signal 9"
    assert reason(80) == "the process ended with exit code 80"


def test_the_last_lines_are_those_of_the_last_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\nnew 1\nnew 2\n")
    assert last_lines(log, 4) == "  new 1\n  new 2"


@pytest.mark.slow
def test_a_stage_that_fails_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(Failed, match=r"(?s)exit code 80; .*log has all that it printed.*no-such\.yaml"):
        run(["validate", str(tmp_path / "no-such.yaml")], log, lambda event: None)
    assert "no-such.yaml" in log.read_text()


def test_an_interrupt_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = [sys.executable, "-c", "print('{}', flush=True); import signal; signal.pause()"]
    monkeypatch.setattr(processes, "start", lambda *_: subprocess.Popen(child, stdout=subprocess.PIPE))

    def interrupted(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["train"], tmp_path / "log", interrupted)
    assert capsys.readouterr().err == "stopping: a training saves its last step; Ctrl-C again ends it at once\n"


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_ends_with_its_parent() -> None:
    source = f"import sys, subprocess, os; subprocess.run([sys.executable, '-c', {CHILD!r}, str(os.getpid())])"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    until(
        lambda: not _alive(child), timeout_seconds=10, interval_seconds=0.01, failure=lambda: f"process {child} runs on"
    )


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
