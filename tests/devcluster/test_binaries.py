"""Builds: stored under their key, complete or not at all. The smallest program is really built."""

import signal
import subprocess
from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.programs import PAUSE, Group
from halcyon_devcluster.progress import QUIET
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit

pytestmark = pytest.mark.slow


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler: bit 14 (SIGTERM) of the mask of caught signals in /proc."""
    mask = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def exit_code_after_sigterm(program: Path) -> int:
    with subprocess.Popen([program]) as process:
        until(
            lambda: catches_sigterm(process.pid), timeout_seconds=10, failure=lambda: "pause never listened for signals"
        )
        process.terminate()
        return process.wait(timeout=limit(10))


def test_a_program_is_built_once_and_found_afterwards(tmp_path: Path):
    binaries = Binaries(tmp_path, QUIET)
    program = binaries.path(PAUSE, "pause")
    built = program.stat()
    assert binaries.path(PAUSE, "pause").stat() == built
    assert not list(program.parent.parent.glob(".pause*"))
    # Go's runtime catches all signals a moment before the program asks for SIGTERM; a signal in between kills the
    # program.
    assert any(exit_code_after_sigterm(program) == 0 for _ in range(10))


def test_a_failed_build_leaves_nothing_that_looks_finished(tmp_path: Path):
    broken = Group("pause", {"pause": "./nothing"})
    with pytest.raises(DevclusterError, match="`go build` in tools/go/pause failed"):
        Binaries(tmp_path, QUIET).folder(broken)
    assert not [path for path in (tmp_path / "bin").iterdir() if path.is_dir()]
