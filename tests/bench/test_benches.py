"""Each benchmark runs from start to end, in tiny sizes. Its figures are not checked: they depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite.limits import limit

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]


BENCHES = {
    "checkpoint": "--megabytes 4 --devices 2 --pairs 1",
    "engine": "--rows 1 2 --depth 1 --vocabulary 256 --length 128 --prompt 4 --tokens 4 --rounds 1",
    "nanochat": "",
    "plan": "--documents 1 --steps 1",
    "start": "--slices 1 --pairs 1",
    "trl": "--seeds 0 --steps 2 --sums 2 --rounds 1",
}
"""The command line of each benchmark in tiny sizes."""
OF_THE_CLUSTER = ("operator_scale",)
"""Benchmarks that start the development cluster, for many minutes; only `make bench` runs them."""


def test_every_benchmark_is_run() -> None:
    assert {path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")} == {*BENCHES, *OF_THE_CLUSTER}


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_runs_to_its_end(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"bench_{name}.py"), *BENCHES[name].split()]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit(300), check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip(), "it prints figures"
