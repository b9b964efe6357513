"""``halcyon show plan`` prints how a run would use its devices, without them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_api.hardware import TABLE
from tests.api.documents import document
from tests.suite.limits import limit
from tests.trainer.weights.folders import GOLDENS

pytestmark = pytest.mark.slow


def show(
    run: dict[str, Any], directory: Path, *options: str, command: tuple[str, ...] = ("plan",)
) -> subprocess.CompletedProcess[str]:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    line = [sys.executable, "-m", "halcyon.commands.main", "show", *command, str(path), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=limit(120), check=False)


def test_a_plan_has_the_mesh_the_memory_and_the_collectives_of_a_run(tmp_path: Path) -> None:
    run = document(
        spec__accelerator={"type": "v5e", "topology": "2x4", "slices": 2, "provisioning": "spot"},
        spec__trainer={"steps": 10, "batchSize": 32, "sequenceLength": 32, "microbatches": "auto", "remat": "auto"},
    )
    ended = show(run, tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {axis: size for axis, size in found["mesh"].items() if size > 1} == {"replica": 2, "fsdp": 8}
    assert (found["microbatches"], found["rows"], found["remat"], found["platform"]) == (1, 2, "none", "cpu")
    assert 0 < found["memory"]["parameters"] < found["memory"]["step"] < found["memory"]["available"]
    assert ["fsdp"] in [row["axes"] for row in found["traffic"]]


@pytest.mark.variant
def test_a_kernel_of_an_accelerator_and_a_model_in_a_file_have_a_plan(tmp_path: Path) -> None:
    """Without the accelerator's compiler the plan is made for the processor, without the kernel, and says so."""
    if importlib.util.find_spec("libtpu") is not None:
        pytest.skip("the compiler for TPUs is installed")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text((GOLDENS / "qwen3" / "config.json").read_text())
    run = document(
        spec__accelerator={"type": "v5e", "topology": "2x4", "provisioning": "spot"},
        spec__model={"huggingFace": {"config": "base/config.json"}},
        spec__trainer={
            "steps": 10,
            "batchSize": 8,
            "sequenceLength": 32,
            "attention": "splash",
            "precision": {"compute": "bfloat16"},
        },
    )
    ended = show(run, tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = " ".join(ended.stdout.split())
    assert (
        "Compiled for cpu with attention auto instead of splash, so the numbers differ somewhat: the compiler for v5e "
        "is in the extra tpu" in said
    )


def test_an_invalid_run_has_no_plan(tmp_path: Path) -> None:
    ended = show(document(spec__trainer__microbatches=3), tmp_path)
    assert ended.returncode == ExitCode.BAD_CONFIGURATION
    assert "spec.trainer.batchSize: 8 must be a multiple of" in ended.stderr


@pytest.mark.variant
def test_a_run_is_shown_without_a_compilation(tmp_path: Path) -> None:
    """``halcyon show run.yaml``: the command may be left out, and options may come first."""
    run = document(spec__accelerator={"type": "v5e", "topology": "2x4", "provisioning": "spot"})
    ended = show(run, tmp_path, command=("--json",))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["tokens"], found["steps"], found["devices"], found["mesh"]["fsdp"]) == (10 * 8 * 32, 10, 8, 8)
    assert found["device"]["available"] == TABLE["v5e"].memory_bytes


@pytest.mark.variant
def test_the_update_of_every_parameter_is_shown_and_a_group_without_one_is_an_error(tmp_path: Path) -> None:
    groups = [{"match": "*.mlp.*", "frozen": True}, {"roles": ["head"], "rule": "lion"}]
    ended = show(document(spec__optimizer={"adamw": {}, "groups": groups}), tmp_path, "--json", command=("optimizer",))
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {row["rule"] for row in rows} == {"adamw", "lion", "frozen"}
    assert all((row["state_bytes"] == 0) is (row["rule"] == "frozen") for row in rows)
    ended = show(
        document(spec__optimizer={"adamw": {}, "groups": [{"match": "*.atention.*"}]}), tmp_path, command=("optimizer",)
    )
    assert ended.returncode == ExitCode.BAD_CONFIGURATION
    assert "spec.optimizer.groups[0]: no parameter has match *.atention.*" in ended.stderr
