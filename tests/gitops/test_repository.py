"""The example of an experiment repository: its environments build, its own check passes, and the check finds
mistakes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.reading import parse_run
from halcyon_api.training_run import GROUP
from halcyon_api.validation import find_problems
from halcyon_devcluster.programs import GO_MODULES, KUBECONFORM, KUBERNETES, pinned_version
from tests.examples.documents import REPOSITORY
from tests.gitops.readers import BUILT, kustomize, program, schemas
from tests.suite.limits import limit

pytestmark = BUILT
EXAMPLE = REPOSITORY / "examples" / "gitops"
ENVIRONMENTS = sorted(path.name for path in (EXAMPLE / "environments").iterdir())
EXPERIMENTS = sorted(path.name for path in (EXAMPLE / "experiments").iterdir())


def built(environment: str, repository: Path = EXAMPLE) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kustomize(repository / "environments" / environment)))


def runs(environment: str) -> list[dict[str, Any]]:
    return [document for document in built(environment) if document["kind"] == "TrainingRun"]


def checked(repository: Path) -> subprocess.CompletedProcess[str]:
    """Run the repository's own check, as its workflow does."""
    tools = {
        str(program(group, name).parent) for group, name in ((KUBERNETES, "kubectl"), (KUBECONFORM, "kubeconform"))
    }
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*tools, os.environ["PATH"]]),
        "HALCYON_SCHEMAS": str(schemas()),
    }
    return subprocess.run(
        [repository / "validate.sh"], env=environment, capture_output=True, text=True, timeout=limit(120), check=False
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "repository"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_run_of_an_environment_is_valid(environment: str) -> None:
    found = runs(environment)
    assert found
    for document in found:
        run = parse_run(document)
        assert not find_problems(run.spec)
        assert run.metadata.namespace == environment
        assert run.spec.checkpoint.root == f"s3://checkpoints/{environment}/{run.metadata.name}"
    (namespace,) = [document for document in built(environment) if document["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == environment


def test_every_experiment_is_tried_in_staging_before_it_is_promoted() -> None:
    names = {environment: {run["metadata"]["name"] for run in runs(environment)} for environment in ENVIRONMENTS}
    assert len(names["staging"]) == len(EXPERIMENTS)
    assert names["production"] < names["staging"]
    assert {run["spec"]["accelerator"]["type"] for run in runs("staging")} == {"cpu"}


def test_experiments_differ_in_their_patch_alone() -> None:
    assert len({(EXAMPLE / "experiments" / name / "kustomization.yaml").read_text() for name in EXPERIMENTS}) == 1


def test_the_check_of_the_repository_passes() -> None:
    done = checked(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"Valid: [1-9]", done.stdout)) == len(ENVIRONMENTS)


def test_the_check_of_the_repository_finds_a_misspelt_field(repository: Path) -> None:
    patch = repository / "experiments" / "wide" / "run.yaml"
    patch.write_text(patch.read_text().replace("hiddenSize", "hiddensize"))
    done = checked(repository)
    assert done.returncode != 0
    assert "hiddensize" in done.stdout


def test_the_check_of_the_repository_finds_two_runs_in_one_root(repository: Path) -> None:
    kustomization = repository / "experiments" / "wide" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().partition("replacements:")[0])
    baseline = repository / "experiments" / "gpt2" / "kustomization.yaml"
    baseline.write_text(baseline.read_text().partition("replacements:")[0])
    done = checked(repository)
    assert done.returncode != 0
    assert "s3://checkpoints/staging/EXPERIMENT" in done.stderr


def test_the_check_of_the_repository_fails_if_nothing_builds(repository: Path) -> None:
    (repository / "base" / "run.yaml").unlink()
    assert checked(repository).returncode != 0


def test_the_workflow_runs_that_check_with_the_tool_that_is_tested() -> None:
    workflow = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "validate.yaml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["validate"]["steps"] if "run" in step]
    assert commands[-1] == "./validate.sh"
    assert commands[0].endswith(
        "@" + pinned_version((GO_MODULES / "kubeconform" / "go.mod").read_text(), "github.com/yannh/kubeconform")
    )


@pytest.mark.parametrize("path", sorted(EXAMPLE.glob("**/*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLE)))
def test_every_run_names_its_schema_for_editors(path: Path) -> None:
    if yaml.safe_load(path.read_text()).get("kind") == "TrainingRun":
        (schema,) = re.findall(r"^# yaml-language-server: \$schema=\S+/(\S+)$", path.read_text(), re.MULTILINE)
        assert (schemas() / GROUP / schema).is_file()
