"""What a cluster of our own leaves on the machine. Tests compare it before and after."""

from __future__ import annotations

import os
from pathlib import Path

from halcyon_devcluster.commands import run

KERNEL = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
)
Footprint = dict[str, list[str]]


def processes_of_cluster(name: str) -> list[str]:
    """Command lines of running processes that belong to a cluster by their cgroup or their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            groups = (folder / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ours = f"halcyon-{name}" in groups or f"devcluster/{name}/" in command
        if ours and state != "Z" and int(folder.name) != os.getpid():
            found.append(command)
    return found


def footprint(name: str) -> Footprint:
    """Everything on the machine that a cluster with this name could leave behind."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    settings = [Path("/proc/sys") / setting for setting in KERNEL]
    cluster_folders = [
        Path("/run/netns"),
        Path("/run/containerd"),
        Path("/var/lib/kubelet"),
        Path("/var/lib/cni"),
        Path("/var/log/pods"),
    ]
    return {
        "processes": processes_of_cluster(name),
        "mounts": [line for line in mounts if "/containers/storage" not in line],  # an image build of another program
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": run(["ip", "route", "show", "table", "all"]).splitlines(),
        "rules": [
            rule
            for command in ("iptables-save", "iptables-legacy-save")
            for rule in run([command]).splitlines()
            if rule[:1] == "-"
        ],
        "control groups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/halcyon-{name}")],
        "settings": [f"{path}={path.read_text().strip()}" for path in settings if path.exists()],
        "folders": [str(path) for path in cluster_folders if path.exists()],
    }
