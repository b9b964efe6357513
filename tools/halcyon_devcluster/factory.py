"""Opens a cluster with the backend that this machine allows."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from halcyon_devcluster.cluster import Cluster
from halcyon_devcluster.engine import Backend, choose, docker_answers
from halcyon_devcluster.kind import KindCluster
from halcyon_devcluster.native import NativeCluster
from halcyon_devcluster.paths import DEFAULT_NAME, cluster_paths
from halcyon_devcluster.progress import QUIET, ProgressView


def open_cluster(
    name: str = DEFAULT_NAME,
    *,
    progress: ProgressView = QUIET,
    environ: Mapping[str, str] = os.environ,
) -> Cluster:
    """Return the cluster called `name`, which may not exist yet, with the backend that this machine allows.

    Args:
        name: At most 20 lower-case letters, digits and hyphens.
        progress: Shows the progress of the cluster's methods.
        environ: Environment with `HALCYON_CACHE`, `HALCYON_STATE` and `HALCYON_BACKEND`.

    Raises:
        DevclusterError: this machine allows no cluster, or a setting in the environment is wrong.
    """
    paths = cluster_paths(name, environ, Path.home())
    # An existing native cluster stays native, even if a Docker engine is started later.
    requested = environ.get("HALCYON_BACKEND") or (Backend.NATIVE if NativeCluster.exists(paths) else None)
    backend = choose(
        docker=not requested and docker_answers(),
        is_linux=sys.platform == "linux",
        is_root=os.geteuid() == 0,
        requested=requested,
    )
    return KindCluster(paths, progress) if backend is Backend.KIND else NativeCluster(paths, progress)
