"""`halcyon render` prints what the operator would create."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from halcyon_api.exit_codes import ExitCode
from halcyon_cli.main import app

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("example", ["stdlib-llama.yaml"])
def test_an_example(example: str) -> None:
    result = CliRunner().invoke(app, ["render", str(EXAMPLES / example), "--trainer-image", "registry.example/trainer:1"])
    assert result.exit_code == ExitCode.DONE, result.output
    config_map, jobset = yaml.safe_load_all(result.stdout)
    document = yaml.safe_load((EXAMPLES / example).read_text())
    spec = yaml.safe_load(config_map["data"]["run.yaml"])["spec"]
    assert spec["trainer"]["steps"] == document["spec"]["trainer"]["steps"]
    assert spec["trainer"]["microbatches"] == 1, "defaults are in it, as the API server puts them there"
    assert (config_map["kind"], jobset["kind"]) == ("ConfigMap", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    assert job["replicas"] == document["spec"]["accelerator"]["slices"]
    assert "registry.example/trainer:1" in result.stdout or "image" in document["spec"]


def test_a_run_for_a_laptop_is_refused_in_one_sentence(tmp_path: Path) -> None:
    document = yaml.safe_load((EXAMPLES / "stdlib-llama.yaml").read_text())
    document["spec"]["checkpoint"] = {"root": f"file://{tmp_path}"}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(app, ["render", str(path)])
    assert result.exit_code == 1
    assert "spec.checkpoint.volumeClaim: a file:// root in a cluster needs" in result.stderr
    document["spec"]["trainer"]["stepz"] = 1
    path.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(app, ["render", str(path)])
    assert "unknown field" in result.stderr
