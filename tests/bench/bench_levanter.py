"""Loading: this project's loader and Levanter's, in turns, on caches of the same token ids. Each project writes its own
cache.

The batches are not used, and there is one CPU device. Levanter's side (`levanter_child.py`) runs in a separate
environment below ``HALCYON_CACHE``, which the first run makes with uv, because `marin-levanter` is not a dependency of
this project. Levanter's trainer requests 32 batches at a time. At 1024 × 4096 this benchmark does so only for the first
batch, and requests 4 at a time for the speed.

    python tests/bench/bench_levanter.py [--pairs 3] [--tokens 64000000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.open import ensure_caches
from halcyon.data.sources import stdlib_modules
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.bpe import train_bpe
from halcyon_api.training_run import TrainingRunSpec
from halcyon_devcluster.paths import cache_folder

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.support.datasets import open_dataset

LEVANTER = "marin-levanter==0.2.227.dev40316220070"
PYTHON = "3.12"
"""The oldest Python version that Levanter supports."""
CHILD = Path(__file__).with_name("levanter_child.py")
VOCABULARY = 32_768
SHAPES = ((1024, 4096, 12, 4), (64, 1024, 192, 32))
"""(batch size, length, number of batches, batches that Levanter requests at a time)"""
DEFAULT_FETCH = 32


class Unavailable(Exception):
    """Levanter cannot be installed on this machine."""


def levanter_python() -> Path:
    """The interpreter of Levanter's environment, which is made if it is missing.

    Raises:
        Unavailable: The environment cannot be made.
    """
    cache = cache_folder(os.environ, Path.home())
    home = cache / f"levanter-{hashlib.sha256(f'{LEVANTER} {PYTHON}'.encode()).hexdigest()[:12]}"
    python, ready = home / "bin" / "python", home / ".ready"
    if not ready.exists():
        uv = shutil.which("uv") or next((str(path) for path in sorted(cache.glob("uv-*/bin/uv"))), None)
        if uv is None:
            raise Unavailable("uv is needed to make Levanter's environment: run make setup, or install uv")
        print(f"making an environment with {LEVANTER} in {home}", file=sys.stderr, flush=True)
        # A version of pyenv, or one that uv finds or downloads.
        interpreters = [*sorted((Path.home() / ".pyenv" / "versions").glob(f"{PYTHON}*/bin/python")), PYTHON]
        commands = [
            [uv, "venv", "--quiet", "--clear", "--python", str(interpreter), str(home)] for interpreter in interpreters
        ]
        if not any(subprocess.run(command, check=False).returncode == 0 for command in commands):
            raise Unavailable(
                f"Levanter needs Python {PYTHON}, which uv neither found nor could download; install it and try again"
            )
        install = [uv, "pip", "install", "--quiet", "--python", str(python), "--prerelease", "allow", LEVANTER]
        if subprocess.run(install, check=False).returncode:
            raise Unavailable(f"{LEVANTER} could not be installed")
        ready.touch()
    return python


def write_ids(path: Path, tokens: int, definition: TokenizerDefinition) -> None:
    """Write documents of log-normal lengths whose tokens follow Zipf's law, each with its begin and end tokens."""
    tokenizer, numbers = load(definition), np.random.default_rng(0)
    lengths = np.minimum(numbers.lognormal(6.2, 1.1, tokens // 500).astype(np.int64) + 2, 100_000)
    lengths = lengths[np.cumsum(lengths) <= tokens]
    ends = np.cumsum(lengths)
    ids = np.minimum(numbers.zipf(1.3, int(ends[-1])), VOCABULARY - 64).astype(np.int32)
    ids[ends - lengths], ids[ends - 1] = tokenizer.bos_id, tokenizer.eos_id
    rows = pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), ids)
    pq.write_table(pa.table({"tokens": rows}), path, row_group_size=2000)


def spec_of(folder: Path, batch_size: int, length: int) -> TrainingRunSpec:
    source = {"name": "text", "parquet": {"paths": [str(folder / "ids.parquet")]}, "format": {"prebuilt": {}}}
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": {"llama": {}},
            "tokenizer": {"tokenizerJson": {"path": str(folder / "tokenizer.json")}},
            "data": {"sources": [source], "validation": {"fraction": 0}, "cache": {"workers": 1}},
            "trainer": {"steps": 10**6, "batchSize": batch_size, "sequenceLength": length},
            "checkpoint": {"root": f"file://{folder}/halcyon"},
        }
    )


def build_ours(folder: Path) -> dict[str, Any]:
    """The same as `levanter_child.build`."""
    began = time.perf_counter()
    store, caches = ensure_caches(spec_of(folder, 1, 1024), process="bench")
    seconds = time.perf_counter() - began
    ledger = caches.ledgers["text"]
    stream = (
        TokenReader(store, "text", ledger, Memory(2**20)).gather(np.array([0]), np.array([ledger.tokens])).astype("<i4")
    )
    return {"tokens": len(stream), "sha256": hashlib.sha256(stream).hexdigest(), "seconds": seconds}


def load_ours(folder: Path, batch_size: int, length: int, batches: int) -> dict[str, Any]:
    """The same as `levanter_child.load`, with this project's loader, set up as in the trainer."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from halcyon.data.loader import Loader

    jax.config.update("jax_platforms", "cpu")
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec(None, "data"))
    began = time.perf_counter()
    dataset = open_dataset(spec_of(folder, batch_size, length))
    with Loader(
        dataset, microbatches=1, sharding=sharding, fields=("tokens", "targets", "weights", "segments")
    ) as loader:
        opened = time.perf_counter()
        times: list[float] = []
        for step in range(batches):
            batch = loader.batch(step)
            jax.block_until_ready(jax.tree.leaves(batch))
            times.append(time.perf_counter() - opened)
    return {"open": opened - began, "times": times}


def run(*command: object) -> dict[str, Any]:
    """Run a process, and return the JSON of its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(str(word) for word in command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def speed(found: dict[str, Any], skipped: int, tokens: int) -> float:
    """Tokens a second, without the first batches."""
    times = found["times"]
    return (len(times) - skipped) * tokens / (times[-1] - times[skipped - 1])


def compare(python: Path, folder: Path, shape: tuple[int, int, int, int], pairs: int, eos: int) -> None:
    batch_size, length, batches, fetch = shape
    ratios: list[float] = []
    speeds: dict[str, list[float]] = {"ours": [], "Levanter": []}
    firsts: dict[str, list[float]] = {"ours": [], "Levanter": []}
    for _ in range(pairs):
        ours = run(
            sys.executable, __file__, "--ours", folder, batch_size, length, 8 * batches
        )  # ours are faster, so more are measured
        theirs = run(python, CHILD, "load", folder / "levanter", eos, batch_size, length, batches, fetch)
        for name, found in (("ours", ours), ("Levanter", theirs)):
            speeds[name].append(speed(found, fetch, batch_size * length))
            firsts[name].append(found["open"] + found["times"][0])
        ratios.append(speeds["ours"][-1] / speeds["Levanter"][-1])
    for name in ("ours", "Levanter"):
        print(
            f"{batch_size} x {length}, {name:>8}: {statistics.median(speeds[name]) / 1e6:6.2f} M tokens/s, from "
            f"opening the cache to the first batch {statistics.median(firsts[name]):.2f} s"
        )
    listed = ", ".join(f"{ratio:.1f}" for ratio in sorted(ratios))
    print(
        f"{batch_size} x {length}: {statistics.median(ratios):.1f} times as fast in the median of {pairs} pairs "
        f"({listed})"
    )
    if fetch != DEFAULT_FETCH:
        found = run(python, CHILD, "load", folder / "levanter", eos, batch_size, length, 1, DEFAULT_FETCH)
        seconds = found["open"] + found["times"][0]
        print(
            f"{batch_size} x {length}, Levanter, {DEFAULT_FETCH} batches at a time: first batch after {seconds:.1f} s"
        )


def main() -> None:
    """Build both caches, then load in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64_000_000)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=4, metavar=("FOLDER", "BATCH", "LENGTH", "BATCHES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        print(json.dumps(build_ours(Path(arguments.build))))
        return
    if arguments.ours:
        print(json.dumps(load_ours(Path(arguments.ours[0]), *map(int, arguments.ours[1:]))))
        return
    try:
        python = levanter_python()
    except Unavailable as why:
        print(f"not compared: {why}")
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        library = Path(sysconfig.get_path("stdlib"))
        texts = ((library / module).read_text(encoding="utf-8", errors="replace") for module in stdlib_modules(library))
        definition = train_bpe(texts, VOCABULARY)
        (folder / "tokenizer.json").write_bytes(definition.content)
        write_ids(folder / "ids.parquet", arguments.tokens, definition)
        ours = run(sys.executable, __file__, "--build", folder)
        theirs = run(python, CHILD, "build", folder / "ids.parquet", folder / "levanter")
        if ours["sha256"] != theirs["sha256"]:
            raise SystemExit(f"the caches hold different tokens: {ours}, {theirs}")
        print(
            f"caches of the same {ours['tokens']:,} tokens: ours built in {ours['seconds']:.1f} s, Levanter's in "
            f"{theirs['seconds']:.1f} s"
        )
        for shape in SHAPES:
            compare(python, folder, shape, arguments.pairs, load(definition).eos_id)


if __name__ == "__main__":
    main()
