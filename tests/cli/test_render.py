"""`halcyon render` prints what the operator would create."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from halcyon_api.ends import ExitCode
from halcyon_cli.main import app

EXAMPLES = Path(__file__).parents[2] / "examples"
GOLDENS = Path(__file__).parents[1] / "trainer" / "weights" / "goldens"


@pytest.mark.parametrize("example", ["stdlib-llama.yaml"])
def test_an_example(example: str) -> None:
    result = CliRunner().invoke(
        app, ["render", str(EXAMPLES / example), "--trainer-image", "registry.example/trainer:1"]
    )
    assert result.exit_code == ExitCode.DONE, result.output
    config_map, jobset = yaml.safe_load_all(result.stdout)
    document = yaml.safe_load((EXAMPLES / example).read_text())
    spec = yaml.safe_load(config_map["data"]["run.yaml"])["spec"]
    assert spec["trainer"]["steps"] == document["spec"]["trainer"]["steps"]
    assert spec["trainer"]["microbatches"] == 1, "it must have the defaults that the API server would fill in"
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
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert "spec.checkpoint.volumeClaim: a file:// root in a cluster needs" in result.stderr
    document["spec"]["trainer"]["stepz"] = 1
    path.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(app, ["render", str(path)])
    assert "unknown field" in result.stderr


def test_the_model_of_a_config_is_read_from_its_file(tmp_path: Path) -> None:
    document = yaml.safe_load((EXAMPLES / "stdlib-llama.yaml").read_text())
    document["spec"]["model"] = {"family": "huggingFace", "configFile": "config.json"}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    (tmp_path / "config.json").write_text((GOLDENS / "qwen3" / "config.json").read_text())
    result = CliRunner().invoke(app, ["render", str(path)])
    assert result.exit_code == ExitCode.DONE, result.output
    config_map, _ = yaml.safe_load_all(result.stdout)
    model = yaml.safe_load(config_map["data"]["run.yaml"])["spec"]["model"]
    assert (model["family"], model["headDim"]) == ("qwen3", 8)
    (tmp_path / "config.json").write_text('{"architectures": ["LamaForCausalLM"]}')
    result = CliRunner().invoke(app, ["render", str(path)])
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert "names LamaForCausalLM, which Halcyon does not have; the nearest that it has is" in result.stderr


def test_a_short_run_needs_its_defaults(tmp_path: Path) -> None:
    run, defaults = (str(EXAMPLES / "defaults" / f"{name}.yaml") for name in ("run", "defaults"))
    for command in ("render", "validate"):
        alone = CliRunner().invoke(app, [command, run])
        assert alone.exit_code != ExitCode.DONE
        assert "spec.checkpoint.root: nothing says where the checkpoints of this run are kept" in alone.stderr
        wrong = CliRunner().invoke(app, [command, run, "--defaults", run])
        assert wrong.exit_code != ExitCode.DONE
        assert "run.yaml: kind" in wrong.stderr
        assert CliRunner().invoke(app, [command, run, "--defaults", defaults]).exit_code == ExitCode.DONE
    more = tmp_path / "cluster.yaml"
    more.write_text(
        "apiVersion: halcyon.dev/v1alpha1\nkind: TrainingRunDefaults\nmetadata: {name: default}\nspec: {image: "
        "'x.example/t:1'}\n"
    )
    result = CliRunner().invoke(app, ["render", run, "--defaults", defaults, "--defaults", str(more)])
    config_map, jobset = yaml.safe_load_all(result.stdout)
    spec = yaml.safe_load(config_map["data"]["run.yaml"])["spec"]
    assert spec["checkpoint"]["root"] == "gs://team-a-checkpoints/runs/team-a/short"
    assert (spec["recovery"]["maxRestarts"], spec["image"]) == (20, "x.example/t:1")
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"


def test_a_sweep_is_rendered_as_runs_that_kubectl_can_apply(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("grid:\n  spec.optimizer.learningRate: [1e-4, 3e-4]\n")
    run = str(EXAMPLES / "stdlib-llama.yaml")
    result = CliRunner().invoke(app, ["render", run, "--matrix", str(sweep), "--set", "spec.trainer.steps=40"])
    assert result.exit_code == ExitCode.DONE, result.output
    first, second = yaml.safe_load_all(result.stdout)
    assert (first["kind"], first["metadata"]["name"], second["metadata"]["name"]) == (
        "TrainingRun",
        "stdlib-llama-1",
        "stdlib-llama-2",
    )
    assert [one["spec"]["trainer"]["steps"] for one in (first, second)] == [40, 40]
    assert first["spec"]["checkpoint"]["root"] != second["spec"]["checkpoint"]["root"]
    sweep.write_text("grid:\n  spec.trainer.microbatches: [1, 64]\n")
    result = CliRunner().invoke(app, ["render", run, "--matrix", str(sweep)])
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert (
        f"{sweep}: member 2 (spec.trainer.microbatches=64): spec.trainer.batchSize: 8 sequences fill" in result.stderr
    )


def test_each_command_takes_changes_of_single_fields(tmp_path: Path) -> None:
    run = str(EXAMPLES / "stdlib-llama.yaml")
    result = CliRunner().invoke(app, ["render", run, "--set", "spec.trainer.steps=33"])
    assert yaml.safe_load(next(yaml.safe_load_all(result.stdout))["data"]["run.yaml"])["spec"]["trainer"]["steps"] == 33
    assert "33 steps" in CliRunner().invoke(app, ["validate", run, "--set", "spec.trainer.steps=33"]).stdout
    for command in (["render"], ["validate"], ["plan"], ["show", "schedule"]):
        result = CliRunner().invoke(app, [*command, run, "--set", "spec.trainer.stepz=33"])
        assert "spec.trainer.stepz: unknown field; did you mean spec.trainer.steps?" in result.stderr, command
