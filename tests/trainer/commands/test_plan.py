"""``halcyon plan`` says whether a run fits, how fast it is and what it costs, without its devices."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_api.status.plan import parse_plan
from tests.api.documents import document
from tests.suite.limits import limit
from tests.trainer.support.planned import drawn, planned, title
from tests.trainer.weights.folders import GOLDENS

pytestmark = pytest.mark.slow


def plan(run: dict[str, Any], directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    line = [sys.executable, "-m", "halcyon.commands.main", "plan", str(path), *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=limit(240), check=False)


def on_v5e(**trainer: Any) -> dict[str, Any]:
    return document(
        spec__accelerator={"type": "v5e", "topology": "2x4", "slices": 2, "provisioning": "spot"},
        spec__trainer={"steps": 10, "batchSize": 32, "sequenceLength": 32} | trainer,
    )


def test_a_plan_has_memory_time_money_and_traffic(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = "--json", "--assume", "price=2", "--report", str(report)
    ended = plan(on_v5e(microbatches="auto", remat="auto"), tmp_path, *options)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    program, numbers = found["program"], found["plan"]
    assert {axis: size for axis, size in program["mesh"].items() if size > 1} == {"replica": 2, "fsdp": 8}
    assert (program["microbatches"], program["rows"], program["remat"], program["platform"]) == (1, 2, "none", "cpu")
    assert 0 < program["memory"]["parameters"] < program["memory"]["step"] < program["memory"]["available"]
    assert {row["between"] for row in program["traffic"] if row["axes"] == ["fsdp"]} == {False}
    assert {row["between"] for row in program["traffic"] if "replica" in row["axes"]} == {True}
    hours = numbers["run"]["chip-hours"]["value"]
    assert numbers["run"]["cost"]["value"] == pytest.approx(2 * hours)
    assert hours == pytest.approx(16 * numbers["run"]["time of the run"]["value"] / 3600)
    shown = parse_plan(report.read_text())
    assert shown is not None
    assert (shown.fits, shown.chip_hours) == (True, pytest.approx(hours))
    assert shown.tokens_per_second == pytest.approx(32 * 32 / numbers["step"]["time of a step"]["value"])
    assert {"mlp", "head", "attention", "optimizer"} <= {part["name"] for part in numbers["parts"]}
    assert {one["basis"] for section in numbers.values() if isinstance(section, dict) for one in section.values()} == {
        "compiled for a processor",
        "computed",
        "assumed",
    }


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.variant) for seed in range(100, 119))])
def test_a_step_takes_the_memory_and_sends_the_bytes_that_were_planned(seed: int) -> None:
    """Of a document that is drawn from a grid, on a mesh of this processor."""
    drawn_document = drawn(random.Random(seed), scale=1)
    found = planned(drawn_document, steps=3)
    assert found.memory[0] == pytest.approx(found.memory[1], rel=0.1), title(drawn_document)
    assert found.sent[0] == found.sent[1] > 0, title(drawn_document)


def test_a_step_that_does_not_fit_is_refused_with_the_missing_memory(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    huge = on_v5e(sequenceLength=65_536, microbatches=1, remat="none", attention="reference")
    ended = plan(huge, tmp_path, "--report", str(report))
    assert ended.returncode == ExitCode.BAD_CONFIGURATION
    assert "It does not fit: a device lacks " in ended.stdout
    assert ended.stdout.startswith("Compiled for a processor: ")
    found = parse_plan(report.read_text())
    assert found is not None
    assert (found.fits, found.bound is not None) == (False, True)
    assert found.message.startswith(f"a step does not fit: it takes {found.memory}, so ")


def test_a_search_ranks_meshes_and_writes_the_best_one(tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    ended = plan(
        document(spec__accelerator={"type": "v5e", "topology": "1x1", "provisioning": "spot"}),
        tmp_path,
        "--search",
        "--json",
        "--write",
        str(best),
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)
    assert rows[0]["fits"]
    assert {} in [row["changes"] for row in rows]
    assert parse_run(yaml.safe_load(best.read_text())).spec.accelerator.topology == "1x1"


@pytest.mark.variant
def test_a_kernel_of_an_accelerator_and_a_model_in_a_file_have_a_plan(tmp_path: Path) -> None:
    """Without the accelerator's compiler the plan is made for the processor, without the kernel, and says so."""
    if importlib.util.find_spec("libtpu") is not None:
        pytest.skip("the compiler for TPUs is installed")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text((GOLDENS / "qwen3" / "config.json").read_text())
    run = document(
        spec__accelerator={"type": "v5e", "topology": "2x4", "provisioning": "spot"},
        spec__model={"family": "huggingFace", "configFile": "base/config.json"},
        spec__trainer={
            "steps": 10,
            "batchSize": 8,
            "sequenceLength": 32,
            "attention": "splash",
            "precision": {"compute": "bfloat16"},
        },
    )
    ended = plan(run, tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = " ".join(ended.stdout.split())
    assert (
        "Compiled for a processor with attention auto, so memory is an upper bound and times are rough: the compiler "
        "for v5e is in "
        "images built with ACCELERATOR=tpu, and in the extra tpu: pip install '.[tpu]' in a checkout of Halcyon" in said
    )


def test_an_invalid_run_has_no_plan(tmp_path: Path) -> None:
    ended = plan(document(spec__trainer__microbatches=3), tmp_path)
    assert ended.returncode == ExitCode.BAD_CONFIGURATION
    assert "spec.trainer.batchSize: 8 sequences fill 2 of 3 microbatches" in ended.stderr
