"""The Debian packages that a native cluster needs, and their installation.

Only missing packages are installed, and one line names them before.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit
from halcyon_devcluster.progress import ProgressView


@dataclass(frozen=True)
class Requirement:
    """A program and the Debian package that contains it."""

    package: str
    program: str


CNI_FOLDER = Path("/usr/lib/cni")
NODE_REQUIREMENTS = (
    Requirement("containerd", "containerd"),
    Requirement("runc", "runc"),
    Requirement("containernetworking-plugins", f"{CNI_FOLDER}/ptp"),
    Requirement("iptables", "iptables"),
    Requirement("conntrack", "conntrack"),
    Requirement("iproute2", "ip"),
    Requirement("util-linux", "nsenter"),
)
_WAIT = ("-o", "DPkg::Lock::Timeout=600")
"""Wait for another apt-get."""
IMAGE_REQUIREMENTS = (Requirement("buildah", "buildah"), Requirement("debootstrap", "debootstrap"))


def missing_packages(requirements: tuple[Requirement, ...]) -> list[str]:
    """Return the packages whose program is not found on PATH or in the system folders."""
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    return [need.package for need in requirements if shutil.which(need.program, path=path) is None]


def refusal(packages: list[str], *, is_root: bool, has_apt: bool) -> str | None:
    """Return a sentence with the reason why `packages` cannot be installed, or None if they can. Pure."""
    wanted = " ".join(packages)
    if not has_apt:
        return (
            f"No Docker engine answers, and without apt-get these packages cannot be installed here: {wanted}. "
            "Start Docker, or use a Debian or Ubuntu machine."
        )
    if not is_root:
        return f"Without Docker the cluster needs root and the Debian packages {wanted}: run as root, or start Docker."
    return None


def ensure_packages(requirements: tuple[Requirement, ...], log: Path, progress: ProgressView) -> None:
    """Install the missing packages with apt-get, without recommended packages.

    Raises:
        DevclusterError: the packages cannot be installed here, or apt-get failed.
    """
    packages = missing_packages(requirements)
    if not packages:
        return
    why_not = refusal(packages, is_root=os.geteuid() == 0, has_apt=shutil.which("apt-get") is not None)
    if why_not:
        raise DevclusterError(why_not)
    install_packages(packages, log, progress)


def install_packages(packages: list[str], log: Path, progress: ProgressView) -> None:
    """Install packages with apt-get as root, without recommended packages; one line names them before.

    Raises:
        DevclusterError: apt-get failed.
    """
    environ = {"DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"Installing Debian packages: {' '.join(packages)}"):
        run(["apt-get", *_WAIT, "update"], environ=environ, log=log)
        run(
            ["apt-get", *_WAIT, "install", "--yes", "--no-install-recommends", *packages],
            environ=environ,
            log=log,
            timeout_seconds=limit(1200),
        )
