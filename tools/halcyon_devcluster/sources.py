"""The sources of images for `load`: buildah's storage, the Docker engine, or an archive on disk.

Layers are compared by digest. If only the last layer of an image changed, only that layer is sent: the stream contains
the blobs that the node lacks, and containerd finds the others in its content store.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit
from halcyon_devcluster.scratch import index

_CHUNK_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class ArchiveContent:
    """Name and id in an image archive.

    Attributes:
        name: Full image name.
        image_id: Digest of the image's configuration.
    """

    name: str
    image_id: str


def read_archive(path: Path) -> ArchiveContent:
    """Read name and id from an archive in the OCI or Docker format.

    Raises:
        DevclusterError: the file has neither format, holds more than one image, or has no name.
    """
    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            if "manifest.json" in names:
                return _docker_content(path, _document(archive, "manifest.json"))
            if "index.json" in names:
                return _oci_content(path, archive)
    except tarfile.TarError as bad:
        raise DevclusterError(f"{path} is not an image archive: {bad}.") from bad
    raise DevclusterError(
        f"{path} holds neither manifest.json nor index.json: write it with `docker save` or `buildah push`."
    )


def _document(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    return json.load(member) if member else None


def _docker_content(path: Path, manifest: list[dict[str, Any]]) -> ArchiveContent:
    if len(manifest) != 1 or not manifest[0].get("RepoTags"):
        raise DevclusterError(f"{path} must hold one image with a name: save it by its name, not by its id.")
    return ArchiveContent(manifest[0]["RepoTags"][0], Path(manifest[0]["Config"]).name.removesuffix(".json"))


def _oci_content(path: Path, archive: tarfile.TarFile) -> ArchiveContent:
    manifests = _document(archive, "index.json")["manifests"]
    annotations = manifests[0].get("annotations", {}) if len(manifests) == 1 else {}
    name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name", "")
    if ":" not in name:
        raise DevclusterError(f"{path} must hold one image with a full name: push it to oci-archive:FILE:NAME:TAG.")
    manifest = _document(archive, f"blobs/{manifests[0]['digest'].replace(':', '/')}")
    return ArchiveContent(name, manifest["config"]["digest"].partition(":")[2])


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file in chunks of at most 1 MiB."""
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk


def program_chunks(command: list[str]) -> Iterator[bytes]:
    """Yield a program's output in chunks of at most 1 MiB.

    Raises:
        DevclusterError: the program failed; raised after the end of its output.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        while process.stdout and (chunk := process.stdout.read(_CHUNK_BYTES)):
            yield chunk
    if process.returncode != 0:
        raise DevclusterError(f"`{' '.join(command)}` failed with status {process.returncode}.")


def buildah_image_id(name: str) -> str | None:
    """Return the id of an image in buildah's storage, or None if there is no image with that name."""
    command = ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", name]
    if not shutil.which("buildah"):
        return None
    with suppress(DevclusterError):
        return run(command).strip()
    return None


def layout_folder(images: Path, name: str) -> Path:
    """Return the folder that keeps an image's layers between loads: one per repository, for all tags. Pure."""
    return images / "layouts" / name.rpartition(":")[0].replace("/", "_")


def export_layout(name: str, layout: Path) -> dict[str, Any]:
    """Write an image from buildah's storage as an OCI layout; layers of the last export stay if they are still used.

    Returns:
        The manifest's descriptor: mediaType, digest, size.
    """
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "index.json").unlink(missing_ok=True)
    run(
        ["buildah", "push", "--quiet", "--disable-compression", "--format", "oci", name, f"oci:{layout}:current"],
        timeout_seconds=limit(900),
    )
    descriptor = json.loads((layout / "index.json").read_text())["manifests"][0]
    used = {digest.partition(":")[2] for digest in references(layout, descriptor)}
    for blob in (layout / "blobs" / "sha256").iterdir():
        if blob.name not in used:
            blob.unlink()
    return {key: descriptor[key] for key in ("mediaType", "digest", "size")}


def references(layout: Path, descriptor: dict[str, Any]) -> list[str]:
    """Return the digests of a manifest, its configuration and its layers."""
    manifest = json.loads(_blob(layout, descriptor["digest"]).read_text())
    return [descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def layout_stream(layout: Path, name: str, descriptor: dict[str, Any], present: Collection[str]) -> Iterator[bytes]:
    """Yield a tar archive of the layout without the blobs in `present`; the manifest is always included, because it
    names the others.
    """
    yield from _member("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
    yield from _member("index.json", index(name, descriptor))
    for digest in dict.fromkeys(references(layout, descriptor)):
        if digest not in present or digest == descriptor["digest"]:
            path = _blob(layout, digest)
            yield _header(f"blobs/{digest.replace(':', '/')}", path.stat().st_size)
            yield from file_chunks(path)
            yield _padding(path.stat().st_size)
    yield bytes(2 * _BLOCK)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content))
    yield content
    yield _padding(len(content))


def docker_image_id(name: str) -> str | None:
    """Return the id of an image in the Docker engine, or None if there is no image with that name."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    return run(command).strip() if succeeds(command) else None
