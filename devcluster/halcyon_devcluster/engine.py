"""Which of the two ways this machine can have a cluster, and an image: with a Docker engine, or by itself. Pure but for the probe."""

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
        docker: An engine answers.
        is_linux: The kernel can hold a node.
        is_root: This process may make namespaces and links.
        requested: `HALCYON_BACKEND`, where it is set; decides alone.

    Raises:
        DevclusterError: neither way is open, in a sentence that says what would open one.
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
        raise DevclusterError("No Docker engine answers, and a cluster without one needs root: start Docker, or run as root.")
    return Backend.NATIVE
