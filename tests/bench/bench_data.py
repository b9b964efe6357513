"""What the data and the telemetry cost a run: opening, permuting, loading, reporting. The shortest of several runs each.

python tests/bench/bench_data.py
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data import Loader, open_dataset
from halcyon.data.permutation import Permutation
from halcyon.telemetry import JsonLog, RunIdentity, RunPlan, RunReporter, StepReport, TelemetryServer
from halcyon.telemetry.metrics import exposition
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.sources import DataSourceSpec, StdlibSourceSpec
from halcyon_api.spec.tokenizer import ByteTokenizerSpec, TokenizerSpec
from halcyon_api.spec.trainer import TrainerSpec

STDLIB = DataSpec(sources=[DataSourceSpec(name="stdlib", stdlib=StdlibSourceSpec())])
BYTES = TokenizerSpec(byte=ByteTokenizerSpec())


def best_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of several runs: what it costs when nobody else wants the machine."""
    durations: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return min(durations)


def opening() -> None:
    trainer = TrainerSpec(steps=1, batch_size=1, sequence_length=256)
    dataset = open_dataset(STDLIB, BYTES, trainer)
    seconds = best_seconds(lambda: open_dataset(STDLIB, BYTES, trainer))
    print(f"open the standard library ({dataset.size_bytes / 1e6:.1f} MB, {dataset.documents} documents): {seconds * 1e3:.0f} ms")


def permuting() -> None:
    count = 10**6
    shuffle = best_seconds(lambda: np.random.default_rng(0).permutation(count)) / count
    for size in (10**6, 2**20, 2**20 + 1, 2**40):
        permutation, numbers = Permutation(size, b"bench"), np.arange(count) % size
        seconds = best_seconds(lambda permutation=permutation, numbers=numbers: permutation(numbers)) / count
        print(f"permute {size:>13}: {seconds * 1e9:5.1f} ns/index (numpy's shuffle of 10**6 in memory: {shuffle * 1e9:.1f})")


def loading() -> None:
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("fsdp",)), PartitionSpec(None, "fsdp"))
    for batch_size, length in ((16, 256), (256, 1024)):
        dataset = open_dataset(STDLIB, BYTES, TrainerSpec(steps=1, batch_size=batch_size, sequence_length=length))
        with Loader(dataset, batch_size=batch_size, microbatches=1, sharding=sharding, depth=0) as loader:
            seconds = best_seconds(lambda loader=loader: jax.block_until_ready(loader.batch(0)), 20)
        print(f"load {batch_size} x {length}: {seconds * 1e3:.2f} ms, {batch_size * length / seconds / 1e6:.0f} M tokens/s")


def reporting() -> None:
    identity = RunIdentity("bench")
    reporter = RunReporter(identity, RunPlan(steps=10**9, tokens_per_step=4096), JsonLog(io.StringIO(), identity))
    steps = iter(range(1, 10**9))

    def thousand() -> None:
        for _ in range(1000):
            reporter.step_done(StepReport(next(steps), 2.5, 1.0, 0.001, 4096.0))

    servers: list[TelemetryServer] = []
    print(f"report and log a step: {best_seconds(thousand) * 1e3:.1f} µs")
    print(f"answer /metrics: {best_seconds(lambda: exposition(reporter)) * 1e3:.2f} ms")
    print(f"answer /status: {best_seconds(reporter.report) * 1e3:.2f} ms")
    print(f"start the server: {best_seconds(lambda: servers.append(TelemetryServer(reporter, 0)), 3) * 1e3:.2f} ms")
    for server in servers:
        server.close()


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    for part in (opening, permuting, loading, reporting):
        part()


if __name__ == "__main__":
    main()
