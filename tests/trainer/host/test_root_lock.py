"""One training of a root at a time on this machine; a dead process never blocks it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halcyon.host.errors import RootTaken
from halcyon.host.root_lock import PARENT, held_root
from tests.suite.limits import limit

HOLDER = """
import os, sys, signal
from pathlib import Path
from halcyon.host.root_lock import held_root

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with held_root(sys.argv[1], "halcyon train run.yaml", folder=Path(sys.argv[2])):
    if os.fork() == 0:  # inherits the open file, and stays
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), flush=True)
    signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the root, and its child, which outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, root(tmp_path), str(tmp_path / "locks")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate(timeout=limit(30))


def root(folder: Path) -> str:
    return f"file://{folder}/my runs/ü"


def hold(folder: Path, *, takes_over: bool = False) -> None:
    with held_root(root(folder), "me", folder=folder / "locks", takes_over=lambda _: takes_over):
        pass


def test_a_second_training_is_told_which_process_trains(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(
        RootTaken,
        match=rf"^process {holder.pid} \(`halcyon train run.yaml`, since .*\) trains in checkpoint root .*/my runs/ü "
        rf"already; stop it with `kill {holder.pid}`",
    ):
        hold(tmp_path)
    assert holder.poll() is None


def test_a_takeover_waits_until_the_process_has_ended(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    hold(tmp_path, takes_over=True)
    assert holder.wait(limit(30)) == 0


def test_a_stopped_process_is_told_of_and_taken_over(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, holder.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(RootTaken, match=rf"stop it with `kill {holder.pid} && kill -CONT {holder.pid}`"):
        hold(tmp_path)
    hold(tmp_path, takes_over=True)
    assert holder.wait(limit(30)) == 0


def test_a_process_that_ends_because_its_parent_was_killed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is called again just after it was killed finds members that still save."""
    monkeypatch.setenv(PARENT, "1234567")  # not the parent of this process any more
    arguments = [root(tmp_path), str(tmp_path / "locks")]
    orphan = subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert orphan.stdout is not None
        child = int(orphan.stdout.readline())
        os.kill(child, signal.SIGKILL)
        hold(tmp_path)
        assert orphan.wait(limit(30)) == 0
    finally:
        orphan.kill()
        orphan.communicate()


def test_a_killed_process_blocks_no_root_though_its_child_lives(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(limit(30))
    hold(tmp_path)


def test_other_roots_and_the_same_process_are_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with held_root("s3://bucket/run", "me", folder=tmp_path / "locks"):
        pass
    hold(tmp_path / "other")


def test_without_a_folder_for_locks_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("no folder")
    hold(tmp_path)
