"""The page of programs is made from plans; pure, so no compiler is needed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.programs.page import PAGE, covered, gathered_in_loops, kernels, page, product_loops, tiles_of
from tests.programs.rows import GPUS, OVERLAP, PENDING, ROWS

CALL = {
    "target": "mosaic_gpu_v2",
    "kernel": "attend",
    "phase": "forward",
    "scope": "attention",
    "loops": [16],
    "count": 1,
}
PLAN: dict[str, Any] = {
    "calls": [CALL, CALL | {"phase": "backward", "count": 2}, CALL | {"target": "__cublas$gemm", "phase": "backward"}],
    "loops": [
        {
            "trips": None,
            "outer": [16, 4],
            "operation": "jit(step)/jvp(experts)/experts/while",
            "calls": 0,
            "products": 3,
        },
        {"trips": 8, "outer": [], "operation": "jit(step)/attention/while", "calls": 0, "products": 0},
    ],
    "products": [{"dtype": "bf16", "depth": 1, "count": 2, "times": 1032, "flops": 10}],
    "traffic": [
        {
            "kind": "all-gather",
            "axes": ["fsdp"],
            "times": 4,
            "size_bytes": 400,
            "depth": 1,
            "largest_bytes": 33_600_000,
        },
        {
            "kind": "all-gather",
            "axes": ["fsdp"],
            "times": 1,
            "size_bytes": 900,
            "depth": 0,
            "largest_bytes": 900_000_000,
        },
    ],
    "memory": {"step": 5_800_000_000},
    "overlap": {"computation": 1.0, "collectives": 0.5, "waited": 0.1},
    "compile_seconds": 19.4,
}


def test_a_row_has_the_kernels_loops_and_figures_of_its_plan() -> None:
    text = page({row.name: PLAN for row in ROWS}, {"jax": "1"})
    attention = "16 forward (`mosaic_gpu_v2`), 32 backward (`mosaic_gpu_v2`)"
    (line,) = [
        line for line in text.partition("## MoE")[2].partition("##")[0].splitlines() if line.startswith("| h200")
    ]
    assert sorted(line.split("|")[2].strip().split(", ")) == sorted(attention.split(", "))
    assert line.endswith("| none | 25% | none | 1: 64 d | 1,032 bf16 | 5.8 GB | 80% | 33.6 MB | 19 |")


def test_documents_leave_less_than_a_third_of_the_tiles_of_the_backward_kernels() -> None:
    text = PAGE.read_text()
    shares = {row.name: tiles_of(row) for row in ROWS if row.accelerator in GPUS}
    wide = {"b200-hybrid"}
    """Heads of 256 features: Triton's kernel, which leaves none out."""
    assert {name for name, share in shares.items() if int(share.removesuffix("%")) > 30} == wide
    assert all(f"| {share} |" in text for share in shares.values())


def test_loops_without_products_and_library_products_are_not_counted_as_loops_and_kernels() -> None:
    assert product_loops(PLAN, "attention") == []
    assert {call["target"] for call in kernels(PLAN, "attention")} == {"mosaic_gpu_v2"}
    assert (covered(PLAN), gathered_in_loops(PLAN)) == (pytest.approx(0.8), 33_600_000)


def test_a_program_that_the_compiler_rejects_has_the_reason_in_its_row() -> None:
    text = page({row.name: {"error": "out of memory"} for row in ROWS}, {})
    assert text.count("no program: out of memory") == len(ROWS)


def test_every_row_is_on_the_page_and_every_expectation_names_a_row() -> None:
    names = {row.name for row in ROWS}
    assert set().union(*PENDING.values(), OVERLAP) <= names
    assert len(
        re.findall(rf"^\| ({'|'.join(sorted({row.accelerator for row in ROWS}))}) \|", PAGE.read_text(), re.MULTILINE)
    ) == len(names)
