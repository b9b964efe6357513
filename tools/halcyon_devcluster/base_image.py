"""A Python base image from Debian packages, for machines that may not reach a registry.

The Dockerfiles take their base image as a build argument. This is the local replacement for it: a minimal Debian with
Python, made by debootstrap, in one layer, without package caches, manuals and translations. Its tag is a hash of the
recipe. Its archive stays in the cache, because making it takes a minute and the result does not change.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from halcyon_devcluster.commands import run
from halcyon_devcluster.machine import limit
from halcyon_devcluster.own_images import REGISTRY
from halcyon_devcluster.progress import ProgressView

SUITE = "trixie"  # its Python is 3.13; the trainer needs 3.12 or later
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# Files that no running program reads; licences (usr/share/doc/*/copyright) stay.
_UNUSED = (
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/lib/apt/lists/*",
    "var/log/*.log",
)
_UNUSED_FOLDERS = ("usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
_SETTINGS = (
    *("--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    *("--env", "LANG=C.UTF-8"),
    *("--cmd", '["python3"]'),
)


def base_image_name() -> str:
    """Return the image's full name, whose tag is a hash of the recipe. Pure."""
    recipe = json.dumps([SUITE, PACKAGES, _UNUSED, _UNUSED_FOLDERS, _SETTINGS])
    return f"{REGISTRY}/python-base:{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def delete_unused_files(root: Path) -> None:
    """Delete the files that no running program reads from a Debian tree."""
    for pattern in _UNUSED:
        for path in root.glob(pattern):
            path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    for folder in _UNUSED_FOLDERS:
        shutil.rmtree(root / folder, ignore_errors=True)
    for path in (root / "usr/share/doc").glob("*/*"):
        if path.name != "copyright":
            path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)


def make_root_archive(images: Path, progress: ProgressView) -> Path:
    """Return the archive of the base image's tree below `images`; make it if it is missing."""
    archive = images / f"{base_image_name().rpartition('/')[2].replace(':', '-')}.rootfs.tar"
    if archive.is_file():
        return archive
    images.mkdir(parents=True, exist_ok=True)
    packages = ",".join(PACKAGES)
    with (
        progress.step(f"Making the base image: Debian {SUITE} with {', '.join(PACKAGES)}"),
        tempfile.TemporaryDirectory(prefix="debootstrap-", dir=images) as folder,
    ):
        root = Path(folder) / "root"
        # In its own mount namespace, so that an interrupted run leaves no /proc mounted in the tree.
        apart = ["unshare", "--mount", "--propagation", "private"]
        run(
            [*apart, "debootstrap", "--variant=minbase", f"--include={packages}", SUITE, root],
            timeout_seconds=limit(1800),
        )
        delete_unused_files(root)
        partial = Path(folder) / "root.tar"
        run(["tar", "--create", "--numeric-owner", f"--directory={root}", f"--file={partial}", "."])
        partial.rename(archive)
    return archive


def import_into_buildah(archive: Path, name: str) -> None:
    """Make image `name` in buildah's storage from the archive of a tree."""
    container = run(["buildah", "from", "scratch"]).strip()
    try:
        run(["buildah", "add", "--quiet", container, archive, "/"])
        run(["buildah", "config", *_SETTINGS, container])
        run(["buildah", "commit", "--quiet", "--disable-compression", container, name])
    finally:
        run(["buildah", "rm", container])
