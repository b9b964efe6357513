"""The node's namespaces: a network and a mount namespace, held open by one sleeping process (the anchor).

A cluster whose processes run directly on the host leaves iptables chains, veth links, kubelet mounts, sockets and
changed kernel settings behind when something is killed at the wrong moment. Here all of that is in two separate
namespaces. The kernel removes it when the last process has ended, several clusters can run side by side, and the host
has only one link and one route.

Inside, `/run`, `/var/lib` and `/var/log` are empty and in memory. The kubelet requires some kernel settings and would
change them for the whole machine (panic on oops, memory overcommit), so they are covered by files that already hold the
required values. The node reaches only the host, so that nothing in it depends on the internet.
"""

from collections.abc import Sequence
from pathlib import Path

from halcyon_devcluster.addresses import Addresses
from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.paths import HIDDEN_IN_NODE
from halcyon_devcluster.waiting import holds_within

# Values that the kubelet requires (k8s.io/kubernetes pkg/kubelet/cm, setupKernelTunables): path below /proc/sys →
# value.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def write_kernel_settings(folder: Path) -> None:
    """Write the files that cover kernel settings below `folder`."""
    for name, value in KERNEL_SETTINGS.items():
        path = folder / name.replace("/", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def anchor_script(settings: Path) -> str:
    """Return the shell program of the anchor: prepare the namespaces, make the file /run/prepared, sleep. Pure."""
    lines = ["set -e", "mount --make-rshared /"]
    lines += [f"mount -t tmpfs -o mode=755 node {folder}" for folder in HIDDEN_IN_NODE if folder != "/var/run"]
    lines += [
        f"if [ -e /proc/sys/{name} ]; then mount --bind '{settings}/{name.replace('/', '.')}' /proc/sys/{name}; fi"
        for name in KERNEL_SETTINGS
    ]
    lines += [
        "ip link set lo up",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "touch /run/prepared",
        "exec sleep infinity",
    ]
    return "\n".join(lines)


def anchor_command(settings: Path) -> list[str]:
    """Return the command that makes the namespaces and holds them open. Pure."""
    return [
        "/usr/bin/unshare",
        "--net",
        "--mount",
        "--propagation",
        "private",
        "/bin/sh",
        "-c",
        anchor_script(settings),
    ]


def enter(anchor: int, command: Sequence[str | Path]) -> list[str]:
    """Return the command that runs `command` inside the namespaces of process `anchor`, with the same process id.

    Pure.
    """
    inside = [f"--net=/proc/{anchor}/ns/net", f"--mount=/proc/{anchor}/ns/mnt"]
    return ["/usr/bin/nsenter", *inside, "--", *map(str, command)]


def link_commands(anchor: int, addresses: Addresses) -> list[list[str]]:
    """Return the commands that join host and node by a veth pair and route the cluster's block through it. Pure."""
    link, peer = addresses.host_link, "eth0"
    inside = [
        ["ip", "address", "add", f"{addresses.node}/30", "dev", peer],
        ["ip", "link", "set", peer, "up"],
        # A connection to the internet (a metadata server, a registry) then fails at once instead of after minutes.
        ["ip", "route", "add", "unreachable", "default"],
        # The node's own processes need some route to services, because the kernel looks up a route before it rewrites
        # the address.
        ["ip", "route", "add", str(addresses.services), "dev", peer],
    ]
    return [
        ["ip", "link", "add", link, "type", "veth", "peer", "name", peer, "netns", str(anchor)],
        ["ip", "address", "add", f"{addresses.host}/30", "dev", link],
        ["ip", "link", "set", link, "up"],
        *(enter(anchor, command) for command in inside),
        ["ip", "route", "add", str(addresses.block), "via", str(addresses.node), "dev", link],
    ]


def remove_link(link: str) -> None:
    """Remove the host's end of the veth pair, if it exists.

    The kernel also removes it, some time after the last process of the node's network namespace has ended. It may do so
    before this call, or between the check and the command here.

    Raises:
        DevclusterError: the link still exists and cannot be removed.
    """
    path = Path("/sys/class/net") / link
    if not path.exists():
        return
    try:
        run(["ip", "link", "delete", link])
    except DevclusterError:
        if not holds_within(lambda: not path.exists(), timeout_seconds=5):
            raise
