"""The API server without a node leaves nothing on the machine, however it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HOLD = """
import sys
from pathlib import Path
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.progress import QUIET
with ControlPlane(Binaries(Path(sys.argv[1]), QUIET), int(sys.argv[2])) as server:
    print(server.kubeconfig.parent, flush=True)
    sys.stdin.read()
"""


def working_in(folder: Path) -> list[str]:
    """The names of the programs whose working directory is this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().partition("\0")[0])
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
    return sorted(Path(program).name for program in found)


def test_the_control_plane_ends_with_the_process_that_started_it(cache: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(cache), str(free_port())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert working_in(folder) == ["etcd", "kube-apiserver"]
        holder.kill()
    until(lambda: not working_in(folder), timeout_seconds=10, failure=lambda: f"{working_in(folder)} still run")
    until(lambda: not folder.exists(), timeout_seconds=10, failure=lambda: f"{folder} is still there")


def test_a_port_in_use_is_reported_in_one_sentence_and_leaves_no_files(
    binaries: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(DevclusterError) as why,
        ControlPlane(binaries, taken.getsockname()[1]),
    ):
        pass
    assert "kube-apiserver ended: the last line of its log is" in str(why.value)
    assert "address already in use" in str(why.value)
    assert list(tmp_path.iterdir()) == []
