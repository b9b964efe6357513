"""Fixtures of real roots: a folder, and a bucket of an S3 gateway that stores its objects in a folder."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.programs import VERSITYGW
from halcyon_devcluster.progress import QUIET
from halcyon_devcluster.waiting import until
from tests.azurite import Azurite, azurite
from tests.faults.proxy import Proxy, proxied
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root


@dataclass(frozen=True)
class Gateway:
    """A running S3 gateway."""

    endpoint: str
    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """versitygw on a free port. Each folder at the top is a bucket."""
    program = Binaries(cache_folder(os.environ, Path.home()), QUIET).path(VERSITYGW, "versitygw")
    folder = tmp_path_factory.mktemp("buckets")
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": f"key{secrets.token_hex(4)}", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    environment = {
        "ROOT_ACCESS_KEY": keys["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": keys["AWS_SECRET_ACCESS_KEY"],
        "PATH": os.environ["PATH"],
        "GOGC": "400",  # fewer collections of garbage, for less processor time
    }
    command = [program, "--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}", "posix", folder]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_listening(port, process)
            yield Gateway(f"http://127.0.0.1:{port}", folder, keys)
        finally:
            process.terminate()


def _wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    def ended_or_listens() -> bool:
        return process.poll() is not None or _listens(port)

    until(ended_or_listens, timeout_seconds=30, interval_seconds=0.02, failure=lambda: "versitygw does not listen")
    if process.poll() is not None:
        raise RuntimeError(f"versitygw ended with status {process.returncode}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=limit(1)).close()
    except OSError:
        return False
    return True


@pytest.fixture
def file_root(tmp_path: Path) -> Root:
    """A root in a folder that does not exist yet."""
    return Root(CheckpointSpec(root=f"file://{tmp_path}/root"), tmp_path / "root")


@pytest.fixture
def s3_root(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root in a new bucket, with the credentials in the environment."""
    bucket = f"bucket-{secrets.token_hex(4)}"
    (gateway.folder / bucket).mkdir()
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    spec = CheckpointSpec(root=f"s3://{bucket}/runs/run", endpoint=gateway.endpoint)
    return Root(spec, gateway.folder / bucket / "runs" / "run", gateway.environment)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Microsoft's emulator of Azure Blob Storage."""
    with azurite(tmp_path_factory.mktemp("blobs")) as server:
        yield server


@pytest.fixture
def azure_root(blobs: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root in a new container, with the credentials in the environment. Its files cannot be seen."""
    container = f"container-{secrets.token_hex(4)}"
    blobs.make(container)
    for name, value in blobs.environment.items():
        monkeypatch.setenv(name, value)
    spec = CheckpointSpec(root=f"az://{blobs.account}/{container}/runs/run", endpoint=blobs.endpoint)
    return Root(spec, tmp_path / "none", blobs.environment)


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[Proxy]:
    """A proxy in front of the gateway, which makes faults."""
    with proxied(gateway.endpoint) as proxy:
        yield proxy


@pytest.fixture
def root_behind(s3_root: Root, proxy: Proxy) -> Root:
    """A root in a bucket that is reached only through the proxy."""
    return replace(s3_root, spec=s3_root.spec.model_copy(update={"endpoint": proxy.endpoint}))


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest) -> Root:
    """Both kinds of root, one after the other."""
    return request.getfixturevalue(f"{request.param}_root")


@pytest.fixture(params=["file", "s3", pytest.param("azure", marks=[pytest.mark.slow, pytest.mark.variant])])
def any_root(request: pytest.FixtureRequest) -> Root:
    """All kinds of root, for a test that does not look at their files."""
    return request.getfixturevalue(f"{request.param}_root")
