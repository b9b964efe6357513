"""The costs of data and telemetry for a run: opening, loading, seeking, reporting. Each figure is the shortest of
several measurements.

No part waits for a device: processors and memory limit the speed of the loader. The seek is in a mixture of 10**12
tokens with simulated ledgers, which list all shards but have no data.

    python tests/bench/bench_data.py [--batch 1024] [--length 4096] [--tokens 1000000000000]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import best_seconds

from halcyon.data.cache.ensure import Caches
from halcyon.data.cache.ledger import Ledger, ShardEntry
from halcyon.data.dataset import Dataset
from halcyon.data.loader import Loader
from halcyon.data.open import cache_store, dataset_of
from halcyon.storage.store import Store
from halcyon.telemetry import JsonLog, RunIdentity, RunPlan, RunReporter, StepReport, TelemetryServer
from halcyon.telemetry.metrics import exposition
from halcyon.tokenizer import BYTE
from halcyon_api.training_run import TrainingRunSpec

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.support.datasets import open_dataset

STDLIB = [
    {"name": "source", "stdlib": {"include": ["source"]}},
    {"name": "help", "stdlib": {"include": ["documentation"]}},
]


def spec_of(root: Path, sources: list[dict[str, Any]] = STDLIB, **trainer: Any) -> TrainingRunSpec:
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": {"llama": {}},
            "data": {"sources": sources, "cache": {"workers": 1}},
            "trainer": {"steps": 10**6, "batchSize": 16, "sequenceLength": 256, **trainer},
            "checkpoint": {"root": f"file://{root}"},
        }
    )


def tokens_of(dataset: Dataset) -> str:
    description = dataset.description["sources"].values()
    tokens, documents = (sum(source[name] for source in description) for name in ("tokens", "documents"))
    return f"{tokens / 1e6:.1f} M tokens, {documents} documents"


def opening(root: Path, options: argparse.Namespace) -> None:
    del options
    began = time.perf_counter()
    dataset = open_dataset(spec_of(root))
    print(f"tokenize the standard library and open it ({tokens_of(dataset)}): {time.perf_counter() - began:.2f} s")
    seconds = best_seconds(lambda: open_dataset(spec_of(root)))
    print(f"open it from the cache, files compared: {seconds * 1e3:.0f} ms")


def loading(root: Path, options: argparse.Namespace) -> None:
    """Batches one after another, with all threads and made ahead, from the second on; then the examples of one batch
    alone.
    """
    for batch_size, length, devices, segments in (
        (16, 256, 2, True),
        *((options.batch, options.length, 1, segments) for segments in (False, True)),
    ):
        sharding = NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("fsdp",)), PartitionSpec(None, "fsdp"))
        dataset = open_dataset(spec_of(root, batchSize=batch_size, sequenceLength=length))
        steps = max(16, options.batch * options.length // (batch_size * length) * 2)

        def load(
            dataset: Dataset = dataset,
            sharding: NamedSharding = sharding,
            segments: bool = segments,
            steps: int = steps,
        ) -> float:
            with Loader(
                dataset,
                microbatches=1,
                sharding=sharding,
                fields=("tokens", "targets", "weights", "segments") if segments else ("tokens", "targets", "weights"),
                last_step=steps,
            ) as loader:
                jax.block_until_ready(loader.batch(0))
                began = time.perf_counter()
                for step in range(1, steps):
                    jax.block_until_ready(loader.batch(step))
                return (time.perf_counter() - began) / (steps - 1)

        seconds = min(load() for _ in range(3))
        alone = best_seconds(lambda dataset=dataset: dataset.examples(dataset.train_rows(0)), 3)
        form = "with segments" if segments else "without segments"
        print(
            f"load {batch_size} x {length}, {form}: {seconds * 1e3:.2f} ms a batch, "
            f"{batch_size * length / seconds / 1e6:.1f} M tokens/s (its examples in one thread: {alone * 1e3:.2f} ms)"
        )


def pretended(tokens: int, shard_tokens: int = 2**26) -> Ledger:
    """A ledger whose shards do not exist."""
    shard = {
        "documents": shard_tokens // 1000,
        "rows": shard_tokens // 1000,
        "empty_rows": 0,
        "size_bytes": 4 * shard_tokens,
    }
    shards = [
        ShardEntry(
            path=f"shards/{number:06d}/",
            tokens=shard_tokens,
            sha256=f"{number:064x}",
            content_sha256=f"{number:064x}",
            **shard,
        )
        for number in range(tokens // shard_tokens)
    ]
    return Ledger(identity={}, token_type="uint16", files=(), shards=tuple(shards), finished=True)  # noqa: S106


def seeking(root: Path, options: argparse.Namespace) -> None:
    """Find the examples of a distant step, in large batches from eight sources."""
    weights = [50, 20, 10, 8, 5, 4, 2, 1]
    sources = [
        {"name": f"s{number}", "text": {"paths": ["/none"]}, "weight": weight} for number, weight in enumerate(weights)
    ]
    spec = spec_of(root, sources, batchSize=options.batch, sequenceLength=options.length)
    store: Store = cache_store(spec)
    caches = Caches(
        BYTE, {f"s{number}": pretended(options.tokens * weight // 100) for number, weight in enumerate(weights)}
    )
    shards = sum(len(ledger.shards) for ledger in caches.ledgers.values())
    began = time.perf_counter()
    dataset = dataset_of(spec, store, caches)
    print(
        f"open a mixture of {options.tokens:,} tokens, 8 sources, {shards} shards (simulated): "
        f"{(time.perf_counter() - began) * 1e3:.0f} ms"
    )
    steps = np.random.default_rng(0).integers(0, 10**6, 200).tolist()
    durations: list[float] = []
    for step in steps:
        began = time.perf_counter()
        dataset.train_rows(step)
        durations.append(time.perf_counter() - began)
    median, most = np.median(durations) * 1e3, max(durations) * 1e3
    print(f"seek to a step of it at random: {median:.2f} ms in the median of {len(steps)}, {most:.2f} ms at most")


def reporting() -> None:
    identity = RunIdentity("bench")
    reporter = RunReporter(
        identity, RunPlan(steps=10**9, tokens_before=lambda step: 4096 * step), JsonLog(io.StringIO(), identity)
    )
    steps = iter(range(1, 10**9))

    def thousand() -> None:
        for _ in range(1000):
            reporter.step_done(StepReport(next(steps), 2.5, 1.0, 0.001, 4096.0))

    servers: list[TelemetryServer] = []
    print(f"report and log a step: {best_seconds(thousand) * 1e3:.1f} µs")
    print(f"answer /metrics: {best_seconds(lambda: exposition(reporter.observe())) * 1e3:.2f} ms")
    print(f"answer /status: {best_seconds(reporter.report) * 1e3:.2f} ms")
    print(f"start the server: {best_seconds(lambda: servers.append(TelemetryServer(reporter, 0)), 3) * 1e3:.2f} ms")
    for server in servers:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("batch", 1024), ("length", 4096), ("tokens", 10**12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    with tempfile.TemporaryDirectory() as root:
        for part in (opening, loading, seeking):
            part(Path(root), options)
    reporting()


if __name__ == "__main__":
    main()
