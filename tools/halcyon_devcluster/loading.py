"""Loads images onto a node through its containerd, and skips what the node has already."""

from pathlib import Path

from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.own_images import REGISTRY
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.sources import (
    buildah_image_id,
    docker_image_id,
    export_layout,
    file_chunks,
    layout_folder,
    layout_stream,
    program_chunks,
    read_archive,
)


def looks_like_path(image: str) -> bool:
    """Whether `image` names a file rather than an image. Pure.

    Image names never begin with `/` or `.`, and archives end in `.tar`.
    """
    return image.startswith(("/", ".")) or image.endswith(".tar")


def full_name(image: str) -> str:
    """Return the name with its tag, or with the tag `latest` if it has none. Pure."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def local_archive(image: str, images: Path) -> Path | None:
    """Return the archive of `image`: the path itself, or the kept archive of one of the cluster's own images; None for
    other images.
    """
    if looks_like_path(image):
        return Path(image)
    own = images / f"{image.rpartition('/')[2].replace(':', '-')}.tar"
    return own if image.startswith(f"{REGISTRY}/") and own.is_file() else None


def load_image(ctr: Ctr, image: str, images: Path, progress: ProgressView) -> str:
    """Make an image (name in buildah's storage, own image, or path of an archive) usable by a node without Docker.

    Args:
        ctr: Client of the node's containerd.
        image: The image.
        images: Folder of kept archives and layouts.
        progress: Shows what is done.
    """
    archive = local_archive(image, images)
    return load_archive(ctr, archive, progress) if archive else load_from_buildah(ctr, image, images, progress)


def load_archive(ctr: Ctr, path: Path, progress: ProgressView) -> str:
    """Import an archive unless the node has the same image under the same name; return the image's name."""
    if not path.is_file():
        raise DevclusterError(f"The image archive {path} does not exist.")
    content = read_archive(path)
    if ctr.image_ids().get(content.name) == content.image_id:
        progress.say(f"{content.name} is on the node already")
        return content.name
    with progress.step(f"Loading {content.name}"):
        ctr.import_archive(file_chunks(path), content.name, content.image_id)
    return content.name


def load_from_buildah(ctr: Ctr, name: str, images: Path, progress: ProgressView) -> str:
    """Send an image from buildah's storage to the node: only missing layers, and nothing if the node has the image
    already.

    Processes that load the same image wait for each other, because an export writes into files that another one would
    read.
    """
    name = full_name(name)
    image_id = buildah_image_id(name)
    if image_id is None:
        raise DevclusterError(
            f"There is no image {name} in buildah's storage: build it first, or give the path of an archive."
        )
    if ctr.image_ids().get(name) == image_id:
        progress.say(f"{name} is on the node already")
        return name
    layout = layout_folder(images, name)
    with exclusive(layout.with_name(f".{layout.name}.lock"), progress):
        if ctr.image_ids().get(name) == image_id:
            return name
        with progress.step(f"Loading {name}"):
            descriptor = export_layout(name, layout)
            ctr.import_archive(layout_stream(layout, name, descriptor, ctr.blobs()), name, image_id)
    return name


def load_from_docker(ctr: Ctr, name: str, progress: ProgressView) -> str:
    """Send an image from the Docker engine to the node, unless the node has it already."""
    name = full_name(name)
    image_id = docker_image_id(name)
    if image_id is None:
        raise DevclusterError(
            f"The Docker engine has no image {name}: build or pull it first, or give the path of an archive."
        )
    if ctr.image_ids().get(name) == image_id:
        progress.say(f"{name} is on the node already")
        return name
    with progress.step(f"Loading {name}"):
        ctr.import_archive(program_chunks(["docker", "save", name]), name, image_id)
    return name
