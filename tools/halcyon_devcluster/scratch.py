"""Images that contain only one static program, written without an image tool.

An image is a tar of content-addressed JSON documents and layers. For a program that needs no other files, writing it
here takes a millisecond, gives the same bytes every time, and needs no image builder for the cluster's own images
(pause, CoreDNS, JobSet, S3 gateway). The archive has both the OCI index and Docker's `manifest.json`, so containerd,
docker and buildah can read it.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOBODY = "65532:65532"


@dataclass(frozen=True)
class ScratchImage:
    """An image of one program.

    Attributes:
        name: Full name with tag, such as `localhost/halcyon/pause:dev`.
        program: Path of the static executable on this machine.
        target: Its path in the image; also the entry point.
        arch: Architecture by the names of Go and OCI.
    """

    name: str
    program: Path
    target: str
    arch: str


def _member(name: str, mode: int, content: bytes | None) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(name)
    info.mode = mode
    if content is None:
        info.type = tarfile.DIRTYPE
        return info, None
    info.size = len(content)
    return info, io.BytesIO(content)


def _tar(members: list[tuple[str, int, bytes | None]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, mode, content in members:
            info, stream = _member(name, mode, content)
            archive.addfile(info, stream)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(image: ScratchImage) -> bytes:
    """Return the image as an archive; equal inputs give equal bytes."""
    layer = _tar([("tmp", 0o1777, None), (image.target.lstrip("/"), 0o755, image.program.read_bytes())])
    config = _json(
        {
            "architecture": image.arch,
            "os": "linux",
            "config": {"Entrypoint": [image.target], "User": NOBODY, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
            "history": [{"created_by": f"COPY {image.program.name} {image.target}"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    blobs = {_digest(content): content for content in (layer, config, manifest)}
    docker = [{"Config": _blob(config), "RepoTags": [image.name], "Layers": [_blob(layer)]}]
    return _tar(
        [
            ("oci-layout", 0o644, _json({"imageLayoutVersion": "1.0.0"})),
            (
                "index.json",
                0o644,
                index(image.name, _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)),
            ),
            ("manifest.json", 0o644, _json(docker)),
            ("blobs", 0o755, None),
            ("blobs/sha256", 0o755, None),
            *((f"blobs/sha256/{digest}", 0o644, content) for digest, content in sorted(blobs.items())),
        ]
    )


def index(name: str, manifest: dict[str, Any]) -> bytes:
    """Return an OCI index of one manifest descriptor, with annotations that make containerd use exactly this name."""
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    return _json({"schemaVersion": 2, "manifests": [manifest | {"annotations": annotations}]})


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{_digest(content)}", "size": len(content)}


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{_digest(content)}"
