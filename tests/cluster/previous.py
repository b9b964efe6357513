"""The version that upgrades are tested from: its chart, its contract and its operator, in an archive beside this file.

A clone may be shallow and the last release may be out of reach, so the archive is in the repository. After a release, archive that release:

    python -m tests.cluster.previous v0.1.0

The operator's image is built from the archived packages, with the Dockerfile and the locked dependencies of today.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from halcyon_devcluster.base_image import base_image_name
from halcyon_devcluster.dockerfile import content_tag
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.images import REPOSITORY, Buildable, build, build_image
from halcyon_devcluster.own_images import REGISTRY
from halcyon_devcluster.progress import ProgressView

ARCHIVE = Path(__file__).with_name("previous.tar.xz")
CHART = "charts/halcyon"
KEPT = (CHART, "crds/halcyon_api", "operator/halcyon_operator")
OF_TODAY = ("images", "pyproject.toml", "uv.lock")


def keep(commit: str) -> None:
    """Write the archive from a commit of this repository."""
    tar = subprocess.run(["git", "archive", "--format=tar", commit, *KEPT], cwd=REPOSITORY, check=True, capture_output=True).stdout
    ARCHIVE.write_bytes(lzma.compress(tar, preset=9))


def unpack(folder: Path) -> Path:
    """Unpack the archived version into a folder, add what its images are built with, and return the path of its chart."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for name in OF_TODAY:
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder / CHART


def build_operator(folder: Path, cache: Path, progress: ProgressView) -> str:
    """Build the operator's image of the version unpacked in a folder, unless it exists. Returns its full name."""
    docker = docker_answers()
    build(Buildable.BASE, cache=cache, progress=progress)
    arguments = {} if docker else {"BASE_IMAGE": base_image_name()}
    dockerfile = folder / "images" / "operator" / "Dockerfile"
    tag = f"{REGISTRY}/previous-operator:{content_tag(dockerfile, folder, arguments)}"
    return build_image(dockerfile, folder, tag, arguments, cache=cache, progress=progress)


if __name__ == "__main__":
    keep(sys.argv[1])
