"""The cgroup is found in every layout of cgroup trees that Linux machines have."""

from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.cgroups import parse_mounts, tracker

V1 = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n/dev/sda / ext4 rw 0 0\n"
BOTH = V1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "tree"),
    [(V1, "/sys/fs/cgroup/pids"), (V2, "/sys/fs/cgroup"), (BOTH, "/sys/fs/cgroup/pids")],
    ids=["v1", "v2", "both"],
)
def test_the_cgroup_tree_that_lists_processes_is_found(mounts: str, tree: str):
    assert tracker(parse_mounts(mounts)) == Path(tree)


def test_the_group_is_made_in_every_tree():
    assert len(parse_mounts(BOTH)) == 3


def test_a_missing_cgroup_tree_is_reported():
    with pytest.raises(DevclusterError, match="mount cgroup2"):
        tracker(parse_mounts("/dev/sda / ext4 rw 0 0\n"))
