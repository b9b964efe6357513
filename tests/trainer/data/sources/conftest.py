"""Stores to read from: an S3 gateway, and web servers with and without range requests."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from halcyon.data.sources import Access
from tests.trainer.checkpoint.roots import Gateway, gateway, proxy
from tests.web import serving

__all__ = ["Bucket", "WebServer", "bucket", "gateway", "proxy", "web_server"]


@dataclass(frozen=True)
class Bucket:
    """A bucket: its address, the folder of its objects, and the access to it."""

    uri: str
    folder: Path
    access: Access


@pytest.fixture
def bucket(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, with the credentials in the environment."""
    name = f"bucket-{secrets.token_hex(4)}"
    (gateway.folder / name).mkdir()
    for variable, value in gateway.environment.items():
        monkeypatch.setenv(variable, value)
    access = Access(endpoint=gateway.endpoint, pause_seconds=0.0, max_retries=1, retry_seconds=5.0)
    return Bucket(f"s3://{name}", gateway.folder / name, access)


@dataclass
class WebServer:
    """A running web server, and the requests that it got."""

    address: str
    ranges: bool
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, range) of each GET."""


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, state: Callable[[], WebServer], **options: Any) -> None:
        self._state = state
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def do_GET(self) -> None:
        state, asked = self._state(), self.headers.get("range")
        state.requests.append((self.path, asked))
        path = Path(self.translate_path(self.path))
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if not state.ranges or match is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        self.send_response(206)
        self.send_header("content-range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("content-length", str(end - start))
        self.send_header("last-modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(data[start:end])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine's name, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


@contextmanager
def serve(folder: Path, certificate: Path, *, ranges: bool) -> Iterator[WebServer]:
    """A web server of a folder."""
    state: list[WebServer] = []
    with serving(partial(_Handler, directory=str(folder), state=lambda: state[0]), certificate) as address:
        state.append(WebServer(f"https://localhost:{address.partition(':')[2]}", ranges))
        yield state[0]


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def web_server(
    request: pytest.FixtureRequest, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebServer]:
    """A web server of the test's folder."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serve(tmp_path, certificate, ranges=request.param) as server:
        yield server
