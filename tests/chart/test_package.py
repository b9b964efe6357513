"""The chart as it is released: with its images set, and nothing else changed."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_operator.model.settings import VARIABLE
from tests.chart.conftest import CHART

SCRIPT = CHART.parent / "package.py"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("package_chart", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_chart_has_no_links() -> None:
    """Flux leaves the links of a Git repository out of its artifact, so the chart would have no CRDs there."""
    assert [path for path in CHART.rglob("*") if path.is_symlink()] == []


@pytest.mark.parametrize(
    ("image", "repository", "tag", "digest"),
    [
        ("registry.example:5000/a/b:1.2", "registry.example:5000/a/b", "1.2", ""),
        (f"registry.example:5000/a/b@{DIGEST}", "registry.example:5000/a/b", "", DIGEST),
        (f"b:1@{DIGEST}", "b", "1", DIGEST),
    ],
)
def test_an_image_has_a_repository_and_a_tag_or_a_digest(
    script: ModuleType, image: str, repository: str, tag: str, digest: str
) -> None:
    assert script.parts(image) == {"repository": repository, "tag": tag, "digest": digest}


@pytest.mark.parametrize("image", ["", "a/b", "registry.example:5000/a/b", "a@sha256:12", 'a": "b:1', "a\\g<9>:1"])
def test_an_image_without_a_tag_or_a_digest_is_rejected(script: ModuleType, image: str) -> None:
    with pytest.raises(script.PackagingError, match="give REPOSITORY:TAG or REPOSITORY@sha256:DIGEST"):
        script.parts(image)


def test_only_the_image_of_the_section_changes(script: ModuleType) -> None:
    before = (CHART / "values.yaml").read_text()
    after = script.with_image(before, "trainerImage", f"r/t:1@{DIGEST}")
    values = yaml.safe_load(before)
    assert yaml.safe_load(after) == values | {"trainerImage": {"repository": "r/t", "tag": "1", "digest": DIGEST}}
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 3
    with pytest.raises(script.PackagingError, match="no section sidecar"):
        script.with_image(before, "sidecar", "a:1")
    with pytest.raises(script.PackagingError, match="section log has 0 lines of repository"):
        script.with_image(before, "log", "a:1")


def test_a_missing_or_failing_helm_is_reported(script: ModuleType, tmp_path: Path) -> None:
    for helm, sentence in (
        ("helm-that-is-not-there", "install Helm, or give --helm PROGRAM"),
        ("false", "Helm made no package"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            script.main(["--operator", "o:1", "--trainer", "t:1", "--destination", str(tmp_path), "--helm", helm])


@pytest.mark.slow  # the first use builds Helm
def test_the_package_needs_no_values(helm: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in CHART.rglob("*") if path.is_file()}
    words = [
        sys.executable,
        SCRIPT,
        "--helm",
        helm,
        "--destination",
        tmp_path,
        "--operator",
        "r.example/o:1",
        "--trainer",
    ]
    run([*words, "r.example/t:2"])
    assert {path: path.read_bytes() for path in CHART.rglob("*") if path.is_file()} == before
    (package,) = tmp_path.glob("*.tgz")
    text = run([helm, "template", "halcyon", package, "--namespace", "training"])
    (deployment,) = [found for found in yaml.safe_load_all(text) if found and found["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "r.example/o:1"
    (settings,) = [entry["value"] for entry in container["env"] if entry["name"] == VARIABLE]
    assert json.loads(settings)["trainerImage"] == "r.example/t:2"
    shutil.rmtree(tmp_path)
    with pytest.raises(DevclusterError, match=r"error: r\.example/t has neither a tag nor a digest"):
        run([*words, "r.example/t"])
