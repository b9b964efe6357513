"""What is in the programs of docs/programs.md.

`make programs` runs these tests; they need the compilers of the extras `cuda` and `tpu`.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.documents import document
from tests.programs.page import compiled, covered, gathered_in_loops, kernels, product_loops, times
from tests.programs.rows import (
    ATTENTION_KERNELS,
    LEAST_COVERED,
    MODELS,
    OVERLAP,
    PENDING,
    ROWS,
    VOCABULARY,
    WITH_EXPERTS,
    Promise,
    Row,
)

pytestmark = [pytest.mark.programs, pytest.mark.variant, pytest.mark.timeout(3600)]


@functools.cache
def plan(row: Row) -> Any:
    found = compiled(row)
    assert "error" not in found, found["error"]
    return found


def parameter(row: Row, *marks: pytest.MarkDecorator) -> Any:
    """A row as a parameter. One process has all tests of a row, so that it is compiled once."""
    return pytest.param(row, id=row.name, marks=[pytest.mark.xdist_group(row.name), *marks])


def rows(promise: Promise, names: tuple[str, ...]) -> Any:
    """The rows with these names.

    One whose program does not have the promise yet must fail: a pass means that it is no longer pending.
    """
    missing = pytest.mark.xfail(reason="pending", strict=True, raises=AssertionError)
    chosen = [row for row in ROWS if row.name in names]
    return pytest.mark.parametrize(
        "row", [parameter(row, *([missing] if row.name in PENDING[promise] else [])) for row in chosen]
    )


def layers_with_attention(row: Row) -> int:
    return 1 if row.model == "hybrid" else MODELS[row.model]["numHiddenLayers"]


def calls(row: Row, phase: str) -> int:
    """Calls of attention kernels in a part of a step."""
    found = [
        call
        for call in kernels(plan(row), "attention")
        if call["target"] in ATTENTION_KERNELS and call["phase"] == phase
    ]
    return sum(call["count"] * times(call["loops"]) for call in found)


def test_a_plan_is_compiled_for_the_accelerators_of_the_document(tmp_path: Path) -> None:
    run = document(
        spec__accelerator={"type": "h100", "topology": "1x8"},
        spec__trainer={"steps": 10, "batchSize": 8, "sequenceLength": 64, "precision": {"compute": "bfloat16"}},
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "halcyon.commands.main", "plan", str(tmp_path / "run.yaml")]
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    program = found["program"]
    assert (program["platform"], program["mesh"]["fsdp"], found["note"]) == ("gpu", 8, None)
    assert any(call["target"].startswith("__cublas$") for call in program["calls"])
    assert program["overlap"]["collectives"] > 0
    assert {"mlp", "head", "optimizer", "embedding"} <= {part["name"] for part in found["plan"]["parts"]}


@rows("attention", tuple(row.name for row in ROWS))
def test_attention_is_a_kernel_in_every_layer_and_no_loop(row: Row) -> None:
    layers = layers_with_attention(row)
    assert calls(row, "forward") >= layers
    assert calls(row, "backward") >= layers
    assert product_loops(plan(row), "attention") == []


@rows("experts", tuple(row.name for row in ROWS if row.model in WITH_EXPERTS))
def test_experts_are_kernels_and_no_loop(row: Row) -> None:
    assert product_loops(plan(row), "experts") == []
    assert kernels(plan(row), "experts")


@rows("overlap", OVERLAP)
def test_computation_covers_collectives(row: Row) -> None:
    share = covered(plan(row))
    assert share is not None
    assert share >= LEAST_COVERED


@pytest.mark.parametrize("row", [parameter(row) for row in ROWS if row.model in ("1B", "8B")])
def test_no_loop_gathers_the_head_or_the_whole_model(row: Row) -> None:
    head = 2 * VOCABULARY * MODELS[row.model]["hiddenSize"]
    assert gathered_in_loops(plan(row)) < head
