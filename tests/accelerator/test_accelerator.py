"""The script for accelerators: its stages run, its rows are right, and neither a failed nor an endless stage ends
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import haliax as hax
import numpy as np
import pytest

from halcyon.models.parts.masks import Block
from halcyon_devcluster.waiting import until
from tests.accelerator import run
from tests.accelerator.measure import ROOT
from tests.accelerator.rows import Row, markdown, read, with_section
from tests.accelerator.stages.attention import Case, mask_of, visible_pairs
from tests.faults.interpreters import of_version, uv
from tests.suite.limits import limit
from tests.trainer.support.shared_programs import kept_folder

SCRIPT = ROOT / "tests/accelerator/run.py"
PAGE = ROOT / "docs/performance.md"
RESULTS = sorted((ROOT / "tests/accelerator/results").glob("*.jsonl"))


def rows_of(code: str, seconds: float = 60.0) -> list[Row]:
    return list(run.rows_of("stage", [sys.executable, "-c", code], seconds, os.environ))


def test_an_endless_stage_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    child = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"while not (path := pathlib.Path({str(mark)!r})).exists() or not path.read_text(): time.sleep(0.01)\n"
        "print('{\"a\": 1}', flush=True); time.sleep(600)"
    )
    found = run.rows_of("stage", [sys.executable, "-c", code], 5.0, os.environ)
    assert next(found) == {"stage": "stage", "a": 1}
    assert list(found) == [{"stage": "stage", "error": "ended after its 5 s"}]
    process = Path(f"/proc/{mark.read_text()}/cmdline")
    until(
        lambda: not process.exists() or not process.read_bytes(),
        timeout_seconds=20,
        failure=lambda: "the child of the stage still runs",
    )


def test_the_page_shows_what_the_script_has_measured() -> None:
    """The section is written by the script alone, from the rows of its runs."""
    text = PAGE.read_text(encoding="utf-8")
    assert with_section(text, [row for path in RESULTS for row in read(path)]) == text, "run `make accelerator-page`"


def test_every_stage_of_the_table_exists() -> None:
    modules = {path.stem for path in (ROOT / "tests/accelerator/stages").glob("*.py")} - {"__init__"}
    assert {name.split("-")[0] for name in run.STAGES} == modules


@pytest.mark.parametrize("mask", ["causal", "causal + documents", "causal + window", "causal + window + documents"])
def test_visible_pairs_are_those_of_the_mask(mask: str) -> None:
    """The operations of a call are counted from them."""
    case = Case(rows=2, length=50, heads=2, kv_heads=2, features=8, mask=mask, dtype="float32", document=9, window=7)
    batch, position = hax.Axis("batch", 2), hax.Axis("position", 50)
    found: Any = mask_of(case, hax.named(case.ids(), (batch, position)))
    visible = found.visible(Block.all_of(position), Block.all_of(position.alias("key_position")))
    rows = 1 if "batch" in visible.axis_names else 2
    assert visible_pairs(case) == int(np.sum(visible.array)) * rows


def dry_run(folder: Path, python: Path, *words: object, before: tuple[str, ...] = ()) -> list[Row]:
    """Run all stages in tiny sizes; the rows."""
    rows, programs = folder / "rows.jsonl", kept_folder(os.environ) / "accelerator"
    environ = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = [
        *before,
        str(python),
        str(SCRIPT),
        "--dry-run",
        "--minutes",
        str(limit(9 * 60) / 60),
        "--rows",
        str(rows),
        *map(str, words),
    ]
    found = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=limit(580), check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return read(rows)


@pytest.mark.slow
@pytest.mark.variant
def test_all_stages_run_in_tiny_sizes(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, Path(sys.executable))
    assert {row["stage"] for row in rows} == {"machine", *run.STAGES}
    assert not [row for row in rows if "error" in row]
    errors = [row for row in rows if row["stage"] == "attention" and "left out" not in row]
    assert {row["implementation"] for row in errors} >= {"reference", "blockwise"}
    assert all(row["largest error of a gradient"] < (1e-5 if row["type"] == "float32" else 0.01) for row in errors)
    (bits,) = (row for row in rows if row["stage"] == "bits" and row["determinism"] == "bitwise")
    assert (bits["equal losses"], bits["same parameters"]) == (bits["steps"], True)
    (resumed,) = (row for row in rows if row["stage"] == "resume")
    assert (resumed["exit code"], resumed["steps"], resumed["equal losses"]) == (-9, 20, 20)
    sound, flipped = (row for row in rows if row["stage"] == "proof")
    assert (sound["found by"], sound["audits"], sound["steps compared"], sound["state compared"]) == (None, 4, 15, True)
    assert (flipped["found by"], flipped["exit code"]) == ("the replay", 1)
    assert markdown(rows).count("**llama-8192**") == 1


JAX = "0.11.2"
"""The version of JAX on the machine that wheels are packed for."""
PRESENT = (f"jax=={JAX}", "equinox", "optax", "tensorstore", "transformers>=5,<6", "pyarrow")


def bare_environment(folder: Path) -> Path:
    """An environment of Python 3.12 with only the packages that a machine with a GPU has; kept for later sessions."""
    pythons = list(of_version("3.12").values())
    if not pythons:
        pytest.skip("there is no Python 3.12")
    if not (folder / ".ready").exists():
        subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", pythons[0], folder], check=True)
        subprocess.run([uv(), "pip", "install", "--quiet", "--python", folder, *PRESENT], check=True)
        (folder / ".ready").touch()
    return folder / "bin/python"


@pytest.mark.slow
@pytest.mark.variant
def test_a_bare_machine_needs_only_the_packed_wheels(tmp_path: Path) -> None:
    """Python 3.12 with an older JAX, no network, and no other package of ours."""
    python = bare_environment(
        kept_folder(os.environ).parent / f"bare-python3.12-{zlib.crc32(repr(PRESENT).encode()):08x}"
    )
    wheels = tmp_path / "wheels"
    packed = subprocess.run(
        ["bash", ROOT / "tests/accelerator/pack.sh", wheels],
        capture_output=True,
        text=True,
        check=True,
        timeout=limit(300),
    )
    assert int(packed.stdout.split("with the tree ")[1].split()[0]) * 1_000_000 <= 60 * 2**20, packed.stdout
    offline = ("unshare", "--net") if os.geteuid() == 0 else ()
    rows = dry_run(tmp_path, python, "--wheels", wheels, before=offline)
    assert {row["stage"] for row in rows} == {"machine", *run.STAGES}
    assert rows[0]["JAX"] == JAX
    assert json.dumps(rows).count('"error":') == 0
