"""One process of a process group that only reads data.

Usage: ``python -m tests.trainer.data.read_batches INDEX COUNT DEVICES COORDINATOR CORPUS CACHE OUTPUT``.

All processes start at the same time; one builds the token cache and the others wait. Each writes the rows of its own
devices for a few steps, and the evaluation of a fixed model, to OUTPUT.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data.dataset import Dataset
from halcyon.data.loader import Loader
from halcyon.parallel.process_group import join, leave
from halcyon.step.objectives.objective import Batch, Sums
from halcyon.step.validation import evaluate, make_evaluation_step
from tests.trainer.data.corpus import open_text, text_source
from tests.trainer.step.given import as_objective
from tests.trainer.support.batches import FIELDS

STEPS = (0, 1, 2, 100)
BATCH_SIZE = 24
LENGTH = 16
MICROBATCHES = 2
MESHES = {4: (2, 1, 2, 1), 3: (1, 3, 1, 1)}
"""Mesh shape by the number of devices."""

Gather = Callable[[np.ndarray, np.ndarray], np.ndarray]


@as_objective
def table_loss(table: jax.Array, batch: Batch, frozen: None, key: None) -> Sums:
    return Sums(
        jnp.sum(batch["weights"] * table[batch["tokens"] % 64, batch["targets"] % 64]), jnp.sum(batch["weights"])
    )


def bytes_of_a_batch(dataset: Dataset, sharding: NamedSharding) -> int:
    """Bytes of tokens that this process reads for a batch."""
    read: list[int] = []
    for source in dataset.sources:

        def counted(starts: np.ndarray, lengths: np.ndarray, gather: Gather = source.tokens.gather) -> np.ndarray:
            tokens = gather(starts, lengths)
            read.append(tokens.nbytes)
            return tokens

        source.tokens.gather = counted  # type: ignore[method-assign]
    with Loader(dataset, microbatches=MICROBATCHES, sharding=sharding, fields=FIELDS, last_step=1) as loader:
        loader.batch(0)
    return sum(read)


def main(index: int, count: int, devices: int, coordinator: str, corpus: Path, cache: Path, output: Path) -> None:
    group = join(coordinator, index, count, devices)
    dataset = open_text(
        sources=[
            text_source(corpus / name, name=name, weight=weight) for name, weight in (("first", 2), ("second", 1))
        ],
        sequence_length=LENGTH,
        batch_size=BATCH_SIZE,
        fraction=0.2,
        seed=3,
        stages=[{"fromStep": STEPS[-1], "sequenceLength": 8}],
        cache=cache,
        process=f"{count}/{index}",
    )
    mesh = Mesh(np.array(jax.devices()).reshape(MESHES[jax.device_count()]), ("replica", "data", "fsdp", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec(None, ("replica", "data", "fsdp")))
    found: dict[str, np.ndarray] = {"bytes": np.array(bytes_of_a_batch(dataset, sharding))}
    with Loader(dataset, microbatches=MICROBATCHES, sharding=sharding, fields=FIELDS, depth=index + 1) as loader:
        for step in STEPS:
            batch = loader.batch(step)
            for name, array in batch.items():
                rows = np.arange(BATCH_SIZE).reshape(array.shape[:2])
                for shard in array.addressable_shards:
                    for row, values in zip(
                        rows[shard.index[:2]].ravel(), np.asarray(shard.data).reshape(-1, array.shape[2]), strict=True
                    ):
                        found[f"{step}/{name}/{row}"] = values
    table = np.random.default_rng(0).uniform(0.1, 9.0, (64, 64)).astype(np.float32)
    step_sums = jax.jit(make_evaluation_step(table_loss, dataset.tokenizer.token_bytes))
    evaluation = evaluate(
        dataset,
        lambda batch: step_sums(table, batch),
        batches=100,
        batch_size=BATCH_SIZE,
        microbatches=MICROBATCHES,
        sharding=sharding,
        fields=FIELDS,
    )
    assert evaluation.bits_per_byte is not None
    found["evaluation"] = np.array(
        [evaluation.loss, evaluation.bits_per_byte, evaluation.tokens, evaluation.size_bytes, evaluation.sequences]
    )
    found["fingerprint"] = np.array(dataset.fingerprint)
    np.savez(output, **found)
    leave(group)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], *map(Path, sys.argv[5:8]))
