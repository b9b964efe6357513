"""The builds that a tier needs: Go programs and images.

They are ready before the tests that use them, so no test waits for a build.
"""

from __future__ import annotations

import os
from pathlib import Path

from halcyon_devcluster import programs
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.paths import cluster_paths
from halcyon_devcluster.programs import Group
from halcyon_devcluster.progress import ProgressView
from tests.suite.browser import ensure_chromium
from tests.suite.tiers import Tier

ALL_BUILT = "HALCYON_ALL_BUILT"
"""1 while the suite runs tests: it has built all programs of the tier."""
_STORE_AND_QUEUES = (programs.VERSITYGW, programs.KUEUE)
_READERS = (programs.PROMTOOL, programs.KUBECONFORM, programs.KSTATUS)
"""Tools that read objects of Halcyon."""
_MORE_READERS = (programs.PROMETHEUS, programs.ARGO, programs.ACTIONLINT, programs.HELM3)
"""Further tools that read objects of Halcyon; only tests with the marker `variant` use them, because their builds take
minutes.
"""
_CONTROLLERS = (
    programs.FLUX_SOURCE,
    programs.FLUX_KUSTOMIZE,
    programs.FLUX_HELM,
    programs.ARGOCD,
)
"""Controllers of others; `make test` uses only the CRDs in their source."""
_IMAGES = (Buildable.BASE, Buildable.OPERATOR, Buildable.TRAINER, Buildable.VERSITYGW)


def groups(tier: Tier, *, docker: bool) -> tuple[Group, ...]:
    """The Go programs that a tier needs, those of the cluster first. Pure."""
    own = programs.KIND_GROUPS if docker else programs.NATIVE_GROUPS
    # The API server without a node runs these programs even where the cluster itself runs in Docker.
    cluster = own if programs.KUBERNETES in own else (*own, programs.KUBERNETES)
    return (*cluster, *_STORE_AND_QUEUES, *_READERS, *((*_MORE_READERS, *_CONTROLLERS) if tier is Tier.ALL else ()))


def cache() -> Path:
    """The folder of all builds."""
    return cluster_paths("halcyon", os.environ, Path.home()).cache


def make_programs(tier: Tier, progress: ProgressView) -> None:
    """Build the missing Go programs of a tier; for the tier `all`, install Chromium if it is missing."""
    Binaries(cache(), progress).provide(groups(tier, docker=docker_answers()))
    if tier is Tier.ALL:
        ensure_chromium(cache(), progress)


def make_images(tier: Tier, progress: ProgressView) -> None:
    """Build the missing images of a tier."""
    more = (Buildable.PROMETHEUS,) if tier is Tier.ALL else ()
    for what in (*_IMAGES, *more):
        build(what, cache=cache(), progress=progress)
