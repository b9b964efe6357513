"""The cluster's control group: the kernel's record of the processes that belong to the cluster.

Every process that the cluster starts joins the group `halcyon-NAME` before its program runs. Its children inherit the
membership: container shims, pods, also those of a kubelet whose record was lost in a crash. So `down` ends exactly the
processes of the cluster, without searching by name, and an empty group proves that none is left. The kubelet puts its
pods below the same group (`cgroupRoot`).

Works with cgroup v1 (one tree per controller), v2 (one tree) and both at once.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.waiting import until

_TRACKERS = ("pids", "freezer", "cpu")
_NODE = "node"


def parse_mounts(mounts: str) -> list[Path]:
    """Return the mount points of all cgroup trees from the text of /proc/mounts, v2 first. Pure."""
    trees: dict[str, list[Path]] = {"cgroup2": [], "cgroup": []}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] in trees:
            trees[fields[2]].append(Path(fields[1]))
    return trees["cgroup2"] + trees["cgroup"]


def tracker(trees: list[Path]) -> Path:
    """Return the tree in which processes are looked up: one of v1's `pids`, `freezer`, `cpu` if mounted, else the v2
    tree. Pure.

    Raises:
        DevclusterError: no tree is mounted.
    """
    for name in _TRACKERS:
        for tree in trees:
            if name in tree.name.split(","):
                return tree
    if not trees:
        raise DevclusterError("No cgroup tree is mounted on this machine: mount cgroup2 on /sys/fs/cgroup.")
    return trees[0]


class ControlGroup:
    """The group of one cluster in every tree."""

    def __init__(self, name: str) -> None:
        self.name = f"halcyon-{name}"
        self._trees = parse_mounts(Path("/proc/mounts").read_text())

    @property
    def members_file(self) -> Path:
        """The file to which a process of the cluster writes its id to join."""
        return tracker(self._trees) / self.name / _NODE / "cgroup.procs"

    def create(self) -> None:
        """Make the group in every tree, and its child group for the cluster's own processes."""
        for tree in self._trees:
            (tree / self.name).mkdir(exist_ok=True)
        self.members_file.parent.mkdir(exist_ok=True)

    def pids(self) -> list[int]:
        """Return the ids of all processes in the group and below it."""
        found: set[int] = set()
        for folder in self._folders(tracker(self._trees)):
            with suppress(FileNotFoundError, OSError):
                found.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
        return sorted(found - {0})

    def kill(self) -> None:
        """SIGKILL every process of the group until none is left; no process can leave the group, and children start in
        it.
        """

        until(
            self._emptied,
            timeout_seconds=30,
            interval_seconds=0.02,
            failure=lambda: (
                f"The processes {self.pids()} of control group {self.name} do not end on SIGKILL: see `ps` for their "
                "state."
            ),
        )

    def _emptied(self) -> bool:
        """Send SIGKILL to every current process of the group, and return whether the group is empty."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not self.pids()

    def exists(self) -> bool:
        """Whether any tree still has the group."""
        return any((tree / self.name).is_dir() for tree in self._trees)

    def remove(self) -> None:
        """Remove the empty group from every tree, deepest folders first.

        A process may have been started but not have joined yet when `kill` found the group empty, because its parent
        was killed in between. Such a process is killed here. After the folders are removed it cannot join and ends by
        itself.
        """

        def gone() -> bool:
            self._emptied()
            for tree in self._trees:
                for folder in reversed(self._folders(tree)):
                    with suppress(FileNotFoundError, OSError):
                        folder.rmdir()
            return not self.exists()

        until(
            gone,
            timeout_seconds=10,
            interval_seconds=0.02,
            failure=lambda: (
                f"The control group {self.name} cannot be removed: the processes {self.pids()} join it again and again."
            ),
        )

    def _folders(self, tree: Path) -> list[Path]:
        top = tree / self.name
        return [top, *sorted(path for path in top.rglob("*") if path.is_dir())] if top.is_dir() else []
