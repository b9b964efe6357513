"""Chooses how this machine makes clusters and images: with a Docker engine, or natively. Pure, except for the probe."""

import shutil
from enum import StrEnum

from halcyon_devcluster.commands import succeeds
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit


class Backend(StrEnum):
    """How the cluster is made."""

    KIND = "kind"
    NATIVE = "native"


def docker_answers() -> bool:
    """Whether a Docker engine (not just its client) answers within some seconds."""
    return shutil.which("docker") is not None and succeeds(["docker", "info"], timeout_seconds=limit(20))


def choose(*, docker: bool, is_linux: bool, is_root: bool, requested: str | None = None) -> Backend:
    """Pick the backend. Pure.

    Args:
        docker: Whether an engine answers.
        is_linux: Whether the kernel can run a native node.
        is_root: Whether this process may make namespaces and links.
        requested: `HALCYON_BACKEND` if it is set; it overrides everything else.

    Raises:
        DevclusterError: neither backend is possible; the sentence names the fix.
    """
    if requested:
        if requested not in tuple(Backend):
            raise DevclusterError(f"HALCYON_BACKEND={requested!r} must be `kind` or `native`, or unset.")
        return Backend(requested)
    if docker:
        return Backend.KIND
    if not is_linux:
        raise DevclusterError("No Docker engine answers, and only Linux can hold a cluster without one: start Docker.")
    if not is_root:
        raise DevclusterError(
            "No Docker engine answers, and a cluster without one needs root: start Docker, or run as root."
        )
    return Backend.NATIVE
