"""A registry with one chart, as `helm push` would leave it there.

It answers what clients need to pull (OCI distribution specification).
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            kind, content = found.get(path, ("application/json", b'{"errors": [{"code": "NAME_UNKNOWN"}]}'))
            self.send_response(200 if path in found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", _digest(content))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
