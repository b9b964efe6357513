"""The workflows use only pinned inputs and sign what they push; no image of the chart has a floating tag."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.generate.__main__ import main as generate
from halcyon_devcluster.commands import run
from halcyon_devcluster.programs import ACTIONLINT
from tests.gitops.readers import program
from tests.suite.limits import limit

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yaml"))
SHOWN = sorted((REPOSITORY / "examples").glob("**/.github/workflows/*.yaml"))
"""Workflows that readers copy."""
CHART = REPOSITORY / "charts" / "halcyon"
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def workflow(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def release_job(name: str) -> dict[str, Any]:
    return workflow(REPOSITORY / ".github" / "workflows" / "release.yaml")["jobs"][name]


@pytest.mark.slow  # the first use builds the linter
@pytest.mark.variant
def test_workflows_are_written_as_the_service_reads_them() -> None:
    actionlint = program(ACTIONLINT, "actionlint")
    # Its helpers shellcheck and pyflakes are not pinned here.
    assert SHOWN
    run([actionlint, "-shellcheck=", "-pyflakes=", *WORKFLOWS, *SHOWN], cwd=REPOSITORY)


def test_the_oldest_python_is_tested_on_every_change() -> None:
    oldest = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    commands = [step.get("run", "") for step in steps(REPOSITORY / ".github" / "workflows" / "test.yaml")]
    assert any(f"/Python/{oldest}." in command and "make test-operator" in command for command in commands)


@pytest.mark.parametrize("path", [*WORKFLOWS, *SHOWN], ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_with_its_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert PINNED.fullmatch(action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}: write the version in a comment"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_the_rights_they_need_and_no_more(path: Path) -> None:
    document = workflow(path)
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        publishes = any(
            command in step.get("run", "") for step in job["steps"] for command in ("gh release", "git push")
        )
        assert job["permissions"]["contents"] == ("write" if publishes else "read")
        assert set(job["permissions"]) <= {"contents", "packages", "id-token"} - ({"packages"} if publishes else set())
        assert job["timeout-minutes"] <= 90
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}
    # With `pull_request`, the workflow file of the pull request runs without secrets.
    assert "pull_request_target" not in path.read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_step_goes_on_after_a_command_that_failed_in_a_pipe(path: Path) -> None:
    assert workflow(path)["defaults"]["run"]["shell"] == "bash", "GitHub's own default has no pipefail"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_untrusted_text_becomes_a_command(path: Path) -> None:
    scripts = [step["run"] for step in steps(path) if "run" in step]
    assert scripts
    assert not any("${{" in script for script in scripts), "values must come from the environment"


def test_every_image_is_built_with_provenance_and_sbom_and_signed_by_digest() -> None:
    job = release_job("images")
    (build,) = [step for step in job["steps"] if step.get("uses", "").startswith("docker/build-push-action@")]
    assert (build["with"]["provenance"], build["with"]["sbom"], build["with"]["push"]) == ("mode=max", True, True)
    assert "BASE_IMAGE=${{ steps.base.outputs.image }}" in build["with"]["build-args"]
    (sbom,) = [step for step in job["steps"] if step.get("uses", "").startswith("anchore/sbom-action@")]
    assert sbom["with"]["image"].endswith("@${{ steps.build.outputs.digest }}")
    signing = job["steps"][-1]["run"]
    assert 'cosign sign --yes --recursive "$IMAGE@$DIGEST"' in signing
    assert "cosign attest --yes --type spdxjson --predicate sbom.spdx.json" in signing
    assert job["permissions"]["id-token"] == "write"
    built = {(entry["dockerfile"], entry["accelerator"]) for entry in job["strategy"]["matrix"]["include"]}
    assert {dockerfile for dockerfile, _ in built} == {f"images/{name}/Dockerfile" for name in ("operator", "trainer")}
    offered = re.search(r"choose (\w+), (\w+) or (\w+)", (REPOSITORY / "images" / "trainer" / "Dockerfile").read_text())
    assert offered is not None
    assert {accelerator for dockerfile, accelerator in built if "trainer" in dockerfile} == set(offered.groups())


def test_nothing_is_released_without_a_test() -> None:
    checks = [step.get("run", "") for step in release_job("check")["steps"]]
    assert checks[-1] == ".ci/run"
    assert release_job("images")["needs"] == "check"
    assert "check" in release_job("chart")["needs"]
    assert 'cosign sign --yes "$CHARTS/halcyon@$digest"' in release_job("chart")["steps"][-1]["run"]


def test_the_released_chart_names_images_of_its_release() -> None:
    job = release_job("chart")
    (script,) = [step["run"] for step in job["steps"] if "charts/package.py" in step.get("run", "")]
    named = re.findall(r'--(operator|trainer) "\$IMAGES/([\w-]+):\$VERSION"', script)
    built = {entry["name"] for entry in release_job("images")["strategy"]["matrix"]["include"]}
    assert dict(named) == {"operator": "halcyon-operator", "trainer": "halcyon-trainer-tpu"}
    assert set(dict(named).values()) <= built
    assert "images" in job["needs"], "images must be pushed before the chart that names them"
    assert release_job("images")["env"]["IMAGE"] == job["env"]["IMAGES"] + "/${{ matrix.name }}"


SIGNER = """#!/bin/sh
[ "$*" = "sign-blob --yes --bundle SHA256SUMS.sigstore.json SHA256SUMS" ] && cp SHA256SUMS SHA256SUMS.sigstore.json
"""
"""Replaces cosign, which needs the workflow's own identity. Keeps a copy of the file that it should sign."""


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """The files that the workflow's own script puts on the release page."""
    assert {"run": "make schemas", "name": "Generate the schemas"} in release_job("page")["steps"]
    assert generate(["--schemas", str(tmp_path / ".halcyon" / "schema")]) == 0
    (script,) = [step["run"] for step in release_job("page")["steps"] if "sha256sum" in step.get("run", "")]
    shutil.copytree(REPOSITORY / "crds", tmp_path / "crds", ignore=shutil.ignore_patterns("halcyon_api"))
    (tmp_path / "bin").mkdir()
    signer = tmp_path / "bin" / "cosign"
    signer.write_text(SIGNER)
    signer.chmod(0o755)
    environment = os.environ | {"PATH": f"{signer.parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True, timeout=limit(60)
    )
    return tmp_path / "assets"


def test_a_release_has_every_schema_and_definition_with_signed_sums(assets: Path) -> None:
    generated = assets.parent / ".halcyon"
    sources = [*(REPOSITORY / "crds").glob("*.yaml"), *generated.rglob("*.json")]
    assert {path.suffix for path in sources} == {".yaml", ".json"}
    listed = {path.name for path in sources} | {"halcyon-schemas.tar.gz"}
    assert {path.name for path in assets.iterdir()} == listed | {"SHA256SUMS", "SHA256SUMS.sigstore.json"}
    for source in sources:
        assert (assets / source.name).read_bytes() == source.read_bytes()
    sums = dict(reversed(line.split("  ")) for line in (assets / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((assets / name).read_bytes()).hexdigest() for name in listed}
    assert (assets / "SHA256SUMS.sigstore.json").read_bytes() == (assets / "SHA256SUMS").read_bytes(), (
        "the whole list must be signed"
    )
    with tarfile.open(assets / "halcyon-schemas.tar.gz") as archive:
        packed = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        assert set(packed) == {str(path.relative_to(generated)) for path in sources if path.suffix == ".json"}
        for name, file in packed.items():
            assert file is not None
            assert file.read() == (generated / name).read_bytes()


def test_the_page_is_made_last_and_from_the_tag() -> None:
    job = release_job("page")
    assert "chart" in job["needs"]
    assert job["env"]["TAG"] == "${{ github.ref_name }}"
    script = job["steps"][-1]["run"]
    assert 'gh release create "$TAG" --verify-tag' in script
    assert 'gh release upload "$TAG" --clobber assets/*' in script


def test_release_files_that_documents_fetch_exist_in_this_version(assets: Path) -> None:
    paths = [
        path
        for folder in ("docs", "examples")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in (".md", ".yaml")
    ]
    fetched = [
        found
        for path in paths
        for found in re.findall(r"/OWNER/halcyon/releases/download/v([^/\s]+)(?:/(\S+))?", path.read_text())
    ]
    assert {version for version, _ in fetched} == {
        tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    }
    assert {name for _, name in fetched if name} <= {path.name for path in assets.iterdir()}
    (workflow_of_example,) = SHOWN
    assert "$HALCYON_RELEASE/halcyon-schemas.tar.gz" in workflow_of_example.read_text()


def test_tag_package_and_chart_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == package


def test_every_image_of_the_chart_is_by_digest_or_by_the_releases_tag() -> None:
    named = [line.strip() for path in CHART.glob("templates/**/*.yaml") for line in path.read_text().splitlines()]
    named = [line for line in named if line.removeprefix("- ").startswith("image:")]
    assert named
    assert all(re.fullmatch(r'(- )?image: \{\{ include "halcyon\.image" \$?\w+ \}\}', line) for line in named), named
    helper = (CHART / "templates" / "_helpers.tpl").read_text()
    assert 'printf "%s@%s" $repository .image.digest' in helper
    assert 'printf "%s:%s" $repository (default .appVersion .image.tag)' in helper
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for image in (values["image"], values["trainerImage"]):
        assert (image["tag"], image["digest"]) == ("", ""), "by default the tag must be that of the release"
