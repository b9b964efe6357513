"""The costs of a checkpoint: how long a save blocks the loop, compared with a plain copy to the host, and MB/s of save
and restore.

Every figure is measured in pairs in one process: a save and a plain copy; a save and the same arrays written by
TensorStore alone, with the same codecs and chunks, and as the same number of plain, synced files; a restore and a read
of those files; and the read-back of a checkpoint after its commit. On a busy machine compare the medians of the pairs'
ratios, and the processor seconds.

    python tests/bench/bench_checkpoint.py [--megabytes 256] [--devices 4] [--pairs 7] [--root s3://BUCKET/PATH
    --endpoint http://HOST:PORT]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.checkpoint import Checkpointer, RunRecord
from halcyon.checkpoint.codec import zarr_metadata
from halcyon.checkpoint.readback import read_back
from halcyon.checkpoint.snapshot import Snapshotter
from halcyon.checkpoint.verify import read_manifest
from halcyon.host.storage.store import Store
from halcyon.parallel.process_group import ProcessGroup
from halcyon_api.checkpoint_documents import DataPosition, Fingerprints, ManifestLeaf, Owner
from halcyon_api.spec.checkpoint import CheckpointSpec, VerifySpec


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def shards(state: dict[str, jax.Array]) -> list[Any]:
    """The shards that one process saves."""
    return [shard.data for array in state.values() for shard in array.addressable_shards if shard.replica_id == 0]


def write_plain(folder: Path, arrays: list[np.ndarray]) -> None:
    """Write the same bytes to the same number of files, each synced, in parallel as the checkpoint does."""

    def write(number: int) -> None:
        with (folder / str(number)).open("wb") as file:
            file.write(arrays[number].data)
            file.flush()
            os.fsync(file.fileno())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(len(arrays))))


def write_tensorstore(folder: Path, leaves: Sequence[ManifestLeaf], state: dict[str, jax.Array]) -> None:
    """Write the same arrays in the same chunks with the same codecs by TensorStore alone: no hashes, no manifest, no
    checks.
    """
    writes = []
    for leaf in leaves:
        kvstore = {"driver": "file", "path": f"{folder}/{leaf.path}/"}
        spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": zarr_metadata(leaf)}
        array = ts.open(spec, create=True, delete_existing=True).result()
        writes += [
            array[shard.index].write(np.asarray(shard.data))
            for shard in state[leaf.path].addressable_shards
            if shard.replica_id == 0
        ]
    for write in writes:
        write.result()


def processor_timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds and processor seconds of a call."""
    processor = time.process_time()
    return timed(work), time.process_time() - processor


def read_plain(folder: Path, arrays: list[np.ndarray]) -> None:
    """Read the plain files into new memory."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: np.fromfile(folder / str(number), np.float32), range(len(arrays))))


def make_state(megabytes: int) -> dict[str, jax.Array]:
    """Twelve matrices sharded by rows over all devices, and a few small arrays, as in a model's state."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    rows = megabytes * (1 << 20) // 4 // 12 // 1024
    rows -= rows % len(jax.devices())
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
    large = jax.jit(lambda key: jax.random.normal(key, (rows, 1024), jnp.float32), out_shardings=by_rows)
    small = jax.jit(lambda number: jnp.full((1024,), number, jnp.float32), out_shardings=everywhere)
    return {f"matrix{n}": large(jax.random.key(n)) for n in range(12)} | {f"norm{n}": small(float(n)) for n in range(6)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--root", default=None)
    parser.add_argument("--endpoint", default=None)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        spec = CheckpointSpec(
            root=options.root or f"file://{folder}/root", endpoint=options.endpoint, verify=VerifySpec(every_saves=0)
        )
        state = jax.block_until_ready(make_state(options.megabytes))
        template = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state
        )
        arrays = [np.array(shard) for shard in shards(state)]
        size = sum(array.nbytes for array in arrays) / 1e6
        blocked, bare, fresh, commits, plain_writes, restores, plain_reads = [[] for _ in range(7)]
        bare_writes, bare_processor, ours_processor, checks, checks_processor = [[] for _ in range(5)]
        leaves, store = Snapshotter(0, 1).take(state).leaves, Store(spec)

        def opened() -> Checkpointer:
            nothing = Fingerprints(sections={}, documents={})
            owner = Owner(namespace="bench", name="bench")
            return Checkpointer(
                spec, RunRecord(nothing, 0, {}), owner=owner, epoch=None, processes=ProcessGroup(0, 1), expected_step=0
            )

        with opened() as checkpointer:
            restored = checkpointer.restore(template)
            step = restored.step if restored else 0
            for _ in range(options.pairs):
                step += 1
                bare.append(
                    timed(lambda: [np.copyto(to, shard) for to, shard in zip(arrays, shards(state), strict=True)])
                )
                fresh.append(timed(lambda: [np.array(shard) for shard in shards(state)]))
                position = DataPosition(step=step, sequences=0, tokens=0)
                processor = time.process_time()
                blocked.append(timed(lambda step=step, position=position: checkpointer.save(step, state, position)))
                checkpointer.finish()
                ours_processor.append(time.process_time() - processor)
                last = checkpointer.last_save
                assert last is not None
                commits.append(last.commit_seconds)
                wall, processor = processor_timed(lambda: write_tensorstore(folder / "bare", leaves, state))
                bare_writes.append(wall)
                bare_processor.append(processor)
                manifest = read_manifest(store, last.checkpoint)
                wall, processor = processor_timed(
                    lambda last=last, manifest=manifest: read_back(
                        store, last.checkpoint, manifest.files, manifest=True
                    )
                )
                checks.append(wall)
                checks_processor.append(processor)
                plain_writes.append(timed(lambda: write_plain(folder, arrays)))
        for _ in range(options.pairs):
            with opened() as checkpointer:
                restores.append(timed(lambda checkpointer=checkpointer: checkpointer.restore(template)))
            plain_reads.append(timed(lambda: read_plain(folder, arrays)))

    def ratio(left: list[float], right: list[float]) -> float:
        return statistics.median(one / other for one, other in zip(left, right, strict=True))

    def milliseconds(values: list[float]) -> str:
        return f"{1e3 * statistics.median(values):8.1f} ms"

    def rate(values: list[float]) -> str:
        return f"{size / statistics.median(values):8.0f} MB/s"

    print(
        f"{size:.0f} MB in {len(arrays)} shards on {options.devices} devices, {spec.root.split(':')[0]} root, "
        f"{options.pairs} pairs"
    )
    print(
        f"save blocks the loop    {milliseconds(blocked)}   bare copy, warm memory {milliseconds(bare)}   ratio "
        f"{ratio(blocked, bare):.2f}"
    )
    print(
        f"                        {' ' * 11}   bare copy, fresh memory{milliseconds(fresh)}   ratio "
        f"{ratio(blocked, fresh):.2f}"
    )
    print(
        f"save to commit          {rate(commits)}   plain synced files   {rate(plain_writes)}   ratio "
        f"{ratio(commits, plain_writes):.2f}"
    )
    print(
        f"                                         bare TensorStore     {rate(bare_writes)}   ratio "
        f"{ratio(commits, bare_writes):.2f}"
    )
    print(
        f"   processor: a save    {milliseconds(ours_processor)}   bare TensorStore     {milliseconds(bare_processor)}"
        f"   ratio {ratio(ours_processor, bare_processor):.2f}"
    )
    print(f"reading a save back     {rate(checks)}   processor            {milliseconds(checks_processor)}")
    print(
        f"restore, verified       {rate(restores)}   plain files          {rate(plain_reads)}   ratio "
        f"{ratio(restores, plain_reads):.2f}"
    )


if __name__ == "__main__":
    main()
