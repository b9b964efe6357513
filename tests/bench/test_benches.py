"""Each benchmark runs from start to end, in tiny sizes. Its figures are not checked: they depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from halcyon_devcluster.paths import cache_folder
from tests.suite.limits import limit

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        arguments: Its command line in tiny sizes.
        peer: Beginning of the name of the environment with the program that it compares with. Empty: it needs none.
    """

    arguments: str = ""
    peer: str = ""


BENCHES = {
    "cache": Bench("--megabytes 2 --pairs 1"),
    "checkpoint": Bench("--megabytes 4 --devices 2 --pairs 1"),
    "engine": Bench("--rows 1 2 --depth 1 --vocabulary 256 --length 128 --prompt 4 --tokens 4 --rounds 1"),
    "evaluation": Bench("--examples 2 --rounds 1 --depth 1 --vocabulary 256 --length 256 --tokens 4"),
    "levanter_step": Bench(
        "--layers 1 --width 16 --mlp 32 --heads 2 --length 16 --batch 2 --vocabulary 64 --rounds 1", peer="levanter-"
    ),
    "memory": Bench("--gigabytes 0.01 --characters 0 --workers 1 --vocabulary 512 --steps 3"),
    "nanochat": Bench(),
    "orbax": Bench("--megabytes 4 --devices 2 --pairs 1", peer="orbax-"),
    "plan": Bench("--documents 1 --steps 1"),
    "start": Bench("--slices 1 --pairs 1"),
    "tokenizer": Bench("--megabytes 0.2 --long 10000"),
}


OF_THE_CLUSTER = ("isolation", "operator_scale")
"""Benchmarks that start the development cluster, for many minutes; only `make bench` runs them."""


def test_every_benchmark_is_run() -> None:
    assert {path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")} == {*BENCHES, *OF_THE_CLUSTER}


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_runs_to_its_end(name: str) -> None:
    bench = BENCHES[name]
    cache = cache_folder(os.environ, Path.home())
    if bench.peer and not any((place / ".ready").exists() for place in cache.glob(f"{bench.peer}*")):
        pytest.skip(f"there is no environment with the other program; python tests/bench/bench_{name}.py makes it")
    command = [sys.executable, str(FOLDER / f"bench_{name}.py"), *bench.arguments.split()]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit(300), check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.strip(), "it prints figures"
