"""Helm, and a function that renders the chart as `helm install` would."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.commands import run
from halcyon_devcluster.paths import cache_folder
from halcyon_devcluster.programs import HELM
from halcyon_devcluster.progress import QUIET
from tests import quick_yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "halcyon"
IMAGES = {
    "image": {"repository": "registry.example/operator"},
    "trainerImage": {"repository": "registry.example/trainer"},
}

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def helm() -> Path:
    """The pinned Helm, built on first use."""
    return Binaries(cache_folder(os.environ, Path.home()), QUIET).path(HELM, "helm")


@pytest.fixture(scope="session")
def render(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """A function that renders the chart. Keyword arguments are values in addition to the image names. Each set of
    values is rendered once."""
    private = {
        name: str(tmp_path_factory.mktemp("helm")) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    }

    @functools.cache
    def rendered(release: str, namespace: str, values: str) -> str:
        command = [helm, "template", release, CHART, "--namespace", namespace, "--values", "-"]
        return run(command, stdin=values, environ=private)

    def render_chart(release: str = "halcyon", namespace: str = "halcyon-system", **values: Any) -> Objects:
        text = rendered(release, namespace, yaml.safe_dump(IMAGES | values))
        return [document for document in quick_yaml.load_all(text) if document]

    return render_chart


def of_kind(objects: Objects, kind: str) -> Objects:
    return [found for found in objects if found["kind"] == kind]


def only(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = of_kind(objects, kind)
    return found
