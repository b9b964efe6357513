"""One host of a process group that loads batches and then waits until it is killed.

Its process has already imported all modules.
"""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data.examples import Batch
from halcyon.data.loader import Loader
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.data.read_batches import MESHES
from tests.trainer.support.batches import FIELDS
from tests.trainer.support.datasets import open_dataset


@dataclass(frozen=True)
class StartOptions:
    """The arguments of one start of a process group."""

    spec: TrainingRunSpec
    environment: dict[str, str]
    coordinator: str
    hosts: int
    first_step: int
    last_step: int
    """Batches of later steps are made ahead, but not taken."""
    depth: int
    threads: int
    memory_bytes: int


def load_batches(life: StartOptions, host: int, progress: Path) -> None:
    """Take one batch after another, and write one line for each: its step, and a digest of each of this host's rows."""
    os.environ |= life.environment
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4 // life.hosts)
    if life.hosts > 1:
        jax.distributed.initialize(life.coordinator, life.hosts, host, cluster_detection_method="deactivate")
    mesh = Mesh(np.array(jax.devices()).reshape(MESHES[jax.device_count()]), ("replica", "data", "fsdp", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec(None, ("replica", "data", "fsdp")))
    dataset = open_dataset(life.spec, process=f"{life.coordinator}/{host}")
    steps = life.spec.trainer.steps
    out = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Loader(
        dataset,
        microbatches=life.spec.trainer.microbatches,
        sharding=sharding,
        fields=FIELDS,
        last_step=steps,
        depth=life.depth,
        memory_bytes=life.memory_bytes,
        threads=life.threads,
    ) as loader:
        for step in range(life.first_step, life.last_step + 1):
            words = [str(step), *(f"{row}:{digest}" for row, digest in sorted(digests(loader.batch(step)).items()))]
            os.write(out, f"{' '.join(words)}\n".encode())  # one write, so that a kill leaves complete lines
        signal.pause()  # until it is killed: if one host exits, JAX ends the others


def digests(batch: Batch) -> dict[int, str]:
    """A digest of all arrays of each row that this process holds, by the row's number in the step's batch."""
    rows = np.arange(np.prod(batch["tokens"].shape[:2])).reshape(batch["tokens"].shape[:2])
    found: dict[int, bytes] = {}
    for name in FIELDS:
        mine: dict[int, bytes] = {}
        for shard in batch[name].addressable_shards:
            values = np.asarray(shard.data).reshape(-1, batch["tokens"].shape[2])
            mine |= {
                int(row): value.tobytes() for row, value in zip(rows[shard.index[:2]].ravel(), values, strict=True)
            }
        found = {row: found.get(row, b"") + content for row, content in mine.items()}
    return {row: hashlib.blake2b(content, digest_size=8).hexdigest() for row, content in found.items()}
