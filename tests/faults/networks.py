"""Hosts on one machine: network namespaces. Two are connected by a veth pair that a test can cut, more by a bridge."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SETTINGS = Path("/etc/netns")


@dataclass(frozen=True)
class Hosts:
    """The names of the two network namespaces, and their IP addresses."""

    names: tuple[str, str]
    addresses: tuple[str, str]

    @property
    def inside(self) -> tuple[tuple[str, ...], ...]:
        """For each host, the words that start a command there."""
        return tuple(("ip", "netns", "exec", name) for name in self.names)

    def cut(self) -> None:
        """Drop all packets without an error on either side: the far end of the veth pair goes down."""
        ip("-n", self.names[1], "link", "set", "cable", "down")

    def reconnect(self) -> None:
        """Let packets pass again."""
        ip("-n", self.names[1], "link", "set", "cable", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not() -> str | None:
    """Why this machine cannot have the two hosts; None if it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "needs the command ip (package iproute2)"
    name = f"halcyon-{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "cable", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"this machine has no network namespaces or no veth: {error.stderr.strip()}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", name)
    return None


@contextmanager
def switched_hosts(count: int) -> Iterator[tuple[str, ...]]:
    """Hosts that a switch connects. Their names; the interface of each is ``cable``, and its address 10.213.8.N, from 1.

    The end of the block removes them.
    """
    token = secrets.token_hex(3)
    switch, names = f"halcyon-{token}-s", tuple(f"halcyon-{token}-{number}" for number in range(count))
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            _host(name, f"10.213.8.{number + 1}")
            peer = ("peer", "name", f"port{number}", "netns", switch)
            ip("-n", name, "link", "add", "cable", "type", "veth", *peer)
            ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"10.213.8.{number + 1}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        _remove(names)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", switch)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two hosts that reach each other and resolve the host name to their own address.

    The end of the block removes them.
    """
    token = secrets.token_hex(3)
    hosts = Hosts((f"halcyon-{token}-0", f"halcyon-{token}-1"), ("10.213.7.1", "10.213.7.2"))
    try:
        for name, address in zip(hosts.names, hosts.addresses, strict=True):
            _host(name, address)
        ip(
            "-n",
            hosts.names[0],
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            hosts.names[1],
        )
        for name, address in zip(hosts.names, hosts.addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/30", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield hosts
    finally:
        _remove(hosts.names)


def _host(name: str, address: str) -> None:
    """A network namespace that resolves the host name to its own address."""
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")
    folder = _SETTINGS / name
    folder.mkdir(parents=True)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")


def _remove(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", name)  # also deletes its end of the veth pair, and so the other end
        shutil.rmtree(_SETTINGS / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        _SETTINGS.rmdir()  # where it is empty
