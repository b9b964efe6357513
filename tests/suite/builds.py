"""What a tier needs built: Go programs and images. They are made before the tests that use them, so that no test waits for a build."""

from __future__ import annotations

import os
from pathlib import Path

from halcyon_devcluster import programs
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.images import Buildable, build
from halcyon_devcluster.paths import cluster_paths
from halcyon_devcluster.programs import Group
from halcyon_devcluster.progress import Progress
from tests.suite.tiers import Tier

_STORE_AND_QUEUES = (programs.VERSITYGW, programs.KUEUE)
_READERS = (
    programs.PROMTOOL,
    programs.PROMETHEUS,
    programs.KUBECONFORM,
    programs.KSTATUS,
    programs.ARGO,
    programs.ACTIONLINT,
    programs.FLUX_SOURCE,
    programs.FLUX_KUSTOMIZE,
)
"""Tools that read what Halcyon makes; only the further cases ask them."""
_IMAGES = (Buildable.BASE, Buildable.OPERATOR, Buildable.TRAINER, Buildable.VERSITYGW)


def groups(tier: Tier, *, docker: bool) -> tuple[Group, ...]:
    """The Go programs that a tier needs, those of the cluster first. Pure."""
    own = programs.KIND_GROUPS if docker else programs.NATIVE_GROUPS
    # An API server without a node is made of the same programs, with Docker too.
    cluster = own if programs.KUBERNETES in own else (*own, programs.KUBERNETES)
    return (*cluster, *_STORE_AND_QUEUES, *(_READERS if tier is Tier.ALL else ()))


def cache() -> Path:
    """The folder of all builds."""
    return cluster_paths("halcyon", os.environ, Path.home()).cache


def missing(tier: Tier, progress: Progress) -> list[str]:
    """What is still to be built: `programs`, `images`, both or nothing. Images are taken to be there where their folder is."""
    found = Binaries(cache(), progress).missing(groups(tier, docker=docker_answers()))
    return (["programs"] if found else []) + ([] if (cache() / "images").is_dir() else ["images"])


def make_programs(tier: Tier, progress: Progress) -> None:
    """Build the Go programs of a tier where they are missing."""
    Binaries(cache(), progress).provide(groups(tier, docker=docker_answers()))


def make_images(tier: Tier, progress: Progress) -> None:
    """Build the images of a tier where they are missing."""
    more = (Buildable.PROMETHEUS,) if tier is Tier.ALL else ()
    for what in (*_IMAGES, *more):
        build(what, cache=cache(), progress=progress)
