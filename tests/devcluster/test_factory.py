"""The machine decides the backend of a new cluster; an existing cluster keeps its own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from halcyon_devcluster import factory
from halcyon_devcluster.engine import Backend


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A machine whose Docker engine answers, and an empty cache with a short path."""
    monkeypatch.setattr(factory, "docker_answers", lambda: True)
    with tempfile.TemporaryDirectory(prefix="hly-") as folder:
        yield {"HALCYON_CACHE": folder}


def backend(environ: dict[str, str]) -> Backend:
    return factory.open_cluster(environ=environ).backend


def test_an_answering_engine_means_kind(environ: dict[str, str]):
    assert backend(environ) is Backend.KIND
    assert backend({**environ, "HALCYON_BACKEND": "native"}) is Backend.NATIVE


def test_a_cluster_made_without_docker_stays_one(environ: dict[str, str]):
    marker = Path(environ["HALCYON_CACHE"]) / "devcluster/halcyon/cluster.json"
    marker.parent.mkdir(parents=True)
    marker.write_text("{}")
    assert backend(environ) is Backend.NATIVE
    marker.unlink()
    assert backend(environ) is Backend.KIND
