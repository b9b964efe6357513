"""Builds images: the project's own from their Dockerfiles, the base image, the S3 gateway and Prometheus; with docker,
else with buildah.

Every tag is a hash of the image's inputs. So an unchanged image is not built again, and a pod's image name identifies
exactly what it runs.
"""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from halcyon_devcluster import own_images
from halcyon_devcluster.base_image import base_image_name, import_into_buildah, make_root_archive
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.debian import IMAGE_REQUIREMENTS, ensure_packages
from halcyon_devcluster.dockerfile import (
    CERTIFICATE_SETTINGS,
    content_tag,
    declared_arguments,
    default_argument,
    passed_arguments,
)
from halcyon_devcluster.engine import docker_answers
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.machine import limit
from halcyon_devcluster.own_images import REGISTRY
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.sources import buildah_image_id, docker_image_id

_ONE_PROGRAM = {"versitygw": own_images.VERSITYGW, "prometheus": own_images.PROMETHEUS}
REPOSITORY = Path(__file__).resolve().parents[2]
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_SECONDS = 3600


class Buildable(StrEnum):
    """The images that `build` can build."""

    OPERATOR = "operator"
    TRAINER = "trainer"
    BASE = "base"
    VERSITYGW = "versitygw"
    PROMETHEUS = "prometheus"


def build_command(
    *, docker: bool, dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str], certificates: list[Path]
) -> list[str]:
    """Return the command that builds an image. Pure.

    buildah runs the steps in a chroot on the host's network, which needs no rights beyond root's. The host's
    certificates are mounted, not copied, so no layer contains them.
    """
    common = ["--file", str(dockerfile), "--tag", tag]
    common += [word for name in sorted(build_args) for word in ("--build-arg", f"{name}={build_args[name]}")]
    if docker:
        return ["docker", "build", *common, str(context)]
    mounts = [word for path in certificates for word in ("--volume", f"{path}:{path}:ro")]
    chroot = ["--isolation", "chroot", "--network", "host", "--layers", "--force-rm"]
    return ["buildah", "bud", *chroot, *mounts, *common, str(context)]


def build_image(
    dockerfile: Path, context: Path, tag: str, build_args: Mapping[str, str], *, cache: Path, progress: ProgressView
) -> str:
    """Build an image from a Dockerfile, unless an image with that name exists already.

    Args:
        dockerfile: Path of the Dockerfile.
        context: Context folder of the build.
        tag: Full image name, whose tag is a hash of the content (see `content_tag`).
        build_args: Values for ARG. Variables of the environment for package indexes and proxies are added if the
            Dockerfile declares them.
        cache: The cache folder; the log goes below it.
        progress: Shows the progress.

    Returns:
        `tag`.
    """
    docker = docker_answers()
    if not docker:
        ensure_packages(IMAGE_REQUIREMENTS, cache / "apt.log", progress)
    image_id = docker_image_id if docker else buildah_image_id
    if image_id(tag):
        return tag
    passed = passed_arguments(declared_arguments(dockerfile.read_text()), os.environ, with_certificates=not docker)
    command = build_command(
        docker=docker,
        dockerfile=dockerfile,
        context=context,
        tag=tag,
        build_args={**passed, **build_args},
        certificates=_certificates(),
    )
    log = cache / "images" / f"{tag.rpartition('/')[2].replace(':', '-')}.log"
    with exclusive(cache / "images" / ".build.lock", progress):
        if not image_id(tag):  # another process may have built it meanwhile
            with progress.step(f"Building image {tag}"):
                run(command, log=log, timeout_seconds=limit(_BUILD_SECONDS))
    return tag


def _certificates() -> list[Path]:
    named = {Path(os.environ[name]) for name in CERTIFICATE_SETTINGS if os.environ.get(name)}
    return sorted(path for path in named | {_SYSTEM_CERTIFICATES} if path.is_file())


def base_image(cache: Path, progress: ProgressView) -> str:
    """Return the name of the local Python base image in buildah's storage; make it if it is missing."""
    ensure_packages(IMAGE_REQUIREMENTS, cache / "apt.log", progress)
    name = base_image_name()
    if buildah_image_id(name) is None:
        archive = make_root_archive(cache / "images", progress)
        with progress.step(f"Importing {name}"):
            import_into_buildah(archive, name)
    return name


def published_base() -> str:
    """Return the default base image of the Dockerfiles, which comes from a registry."""
    return default_argument(_dockerfile(Buildable.TRAINER).read_text(), "BASE_IMAGE")


def _pulled(name: str, progress: ProgressView) -> str:
    if docker_image_id(name) is None:
        with progress.step(f"Pulling {name}"):
            run(["docker", "pull", name], timeout_seconds=limit(_BUILD_SECONDS))
    return name


def _dockerfile(what: Buildable) -> Path:
    return REPOSITORY / "images" / what / "Dockerfile"


def image_tag(what: Buildable, *, cache: Path, docker: bool, progress: ProgressView) -> str:
    """Return the full name of the image `what`, without building it."""
    match what:
        case Buildable.BASE:
            return published_base() if docker else base_image_name()
        case Buildable.VERSITYGW | Buildable.PROMETHEUS:
            image = _ONE_PROGRAM[what]
            return own_images.image_name(image, Binaries(cache, progress).key(image.group))
        case _:
            return f"{REGISTRY}/{what}:{content_tag(_dockerfile(what), REPOSITORY, _base_argument(docker=docker))}"


def build(what: Buildable, *, cache: Path, progress: ProgressView) -> str:
    """Build one of the project's images, unless it exists already, and return its full name."""
    docker = docker_answers()
    match what:
        case Buildable.BASE:
            return _pulled(published_base(), progress) if docker else base_image(cache, progress)
        case Buildable.VERSITYGW | Buildable.PROMETHEUS:
            name, archive = own_images.make(_ONE_PROGRAM[what], Binaries(cache, progress), cache / "images")
            if docker and not succeeds(["docker", "image", "inspect", name]):
                run(["docker", "load", "--input", archive])
            return name
        case _:
            tag = image_tag(what, cache=cache, docker=docker, progress=progress)
            if not docker:
                base_image(cache, progress)
            return build_image(
                _dockerfile(what), REPOSITORY, tag, _base_argument(docker=docker), cache=cache, progress=progress
            )


def _base_argument(*, docker: bool) -> dict[str, str]:
    """Return the base image as a build argument: the local one for buildah; none for docker, which uses the
    Dockerfile's default.
    """
    return {} if docker else {"BASE_IMAGE": base_image_name()}
