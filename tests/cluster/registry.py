"""A registry with one chart, as `helm push` would leave it there.

It answers what clients need to pull (OCI distribution specification).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.web import Handler, serving

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def _described(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def answers(package: bytes, name: str, version: str) -> dict[str, tuple[str, bytes]]:
    """Kind and content of each path. Pure.

    Args:
        package: A chart as an archive.
        name: Its repository, such as `charts/halcyon`.
        version: Its version, which is the tag.
    """
    config = json.dumps({"name": name.rpartition("/")[2], "version": version, "apiVersion": "v2"}).encode()
    layers = {"config": _described(CONFIG, config), "layers": [_described(CONTENT, package)]}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **layers}).encode()
    blobs = {f"/v2/{name}/blobs/{_digest(data)}": ("application/octet-stream", data) for data in (config, package)}
    tags = json.dumps({"name": name, "tags": [version]}).encode()
    named = {f"/v2/{name}/manifests/{reference}": (MANIFEST, manifest) for reference in (version, _digest(manifest))}
    return {"/v2/": ("application/json", b"{}"), f"/v2/{name}/tags/list": ("application/json", tags), **blobs, **named}


@contextmanager
def registry(package: Path, name: str, version: str, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Serve a chart while the block runs.

    Args:
        package: The chart as an archive.
        name: Its repository, such as `charts/halcyon`.
        version: Its version, which is the tag.
        certificate: Certificate and key of TLS; None: without TLS.

    Returns:
        HOST:PORT of the registry.
    """
    found = answers(package.read_bytes(), name, version)

    class Answers(Handler):
        def get(self) -> None:
            path = self.path.partition("?")[0]
            kind, content = found.get(path, ("application/json", b'{"errors": [{"code": "NAME_UNKNOWN"}]}'))
            headers = {"Content-Type": kind, "Docker-Content-Digest": _digest(content)}
            self.answer(200 if path in found else 404, content, headers)

    with serving(Answers, *(certificate or ())) as address:
        yield address
