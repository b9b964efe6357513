"""Levanter's side of `bench_levanter`: builds its cache of given token ids, or loads batches from it. Runs in a
separate environment.

    python levanter_child.py build IDS.parquet CACHE
    python levanter_child.py load CACHE EOS BATCH LENGTH BATCHES FETCH

Data set, shuffle, mixture and loader are made as in Levanter's trainer, with its defaults: block shuffle, segments from
end tokens, and, if FETCH is 32, the trainer's sizes of requests and buffers. The result is a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BUFFERED_BATCHES = 128
EXEMPLAR = {"input_ids": np.zeros(0, np.int32)}


def build(ids: Path, cache: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq
    from levanter.store.cache import TreeCache, write_levanter_cache

    def rows() -> Iterator[dict[str, np.ndarray]]:
        for batch in pq.ParquetFile(ids).iter_batches(columns=["tokens"]):
            column = batch.column(0)
            for row in range(len(column)):
                yield {"input_ids": column[row].values.to_numpy().astype(np.int32)}

    began = time.perf_counter()
    written = write_levanter_cache(rows(), str(cache), metadata={})
    seconds = time.perf_counter() - began
    tokens = TreeCache.load(str(cache), EXEMPLAR).store.tree["input_ids"]
    stream = np.asarray(tokens.data[0 : tokens.data_size].read().result(), "<i4")
    return {
        "tokens": len(stream),
        "sha256": hashlib.sha256(stream).hexdigest(),
        "documents": written["count"],
        "seconds": seconds,
    }


def load(cache: Path, eos: int, batch_size: int, length: int, batches: int, fetch: int) -> dict[str, Any]:
    import haliax
    import jax
    from jax.sharding import Mesh
    from levanter.data.loader import DataLoader
    from levanter.data.mixture import MixtureDataset
    from levanter.data.text.datasets import DEFAULT_LM_DATA_SHUFFLE, CausalLmDataset, NamedLmDataset, TokenSeqDataset
    from levanter.store.cache import TreeCache

    position = haliax.Axis("position", length)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    began = time.perf_counter()
    documents = TreeCache.load(str(cache), EXEMPLAR)
    sequences = CausalLmDataset(
        TokenSeqDataset(documents, length), position, eos_id=eos, block_cross_document_attention=True
    )
    shuffle = DEFAULT_LM_DATA_SHUFFLE
    mixture_key, key = jax.random.split(jax.random.PRNGKey(0))
    shuffled = sequences.block_shuffle(
        io_block_size=shuffle.io_block_size, window_blocks=shuffle.window_blocks, key=key, perm_type=shuffle.perm_type
    )
    mixture = MixtureDataset(
        datasets={"text": shuffled}, weights={"text": 1.0}, stop_strategy="restart", key=mixture_key, block_size=2048
    )
    loader = DataLoader(
        NamedLmDataset(mixture, position),
        batch_size,
        max_buffered_batches=BUFFERED_BATCHES,
        mesh=mesh,
        axis_resources={"batch": "data"},
        fetch_batch_size=fetch,
    )
    opened = time.perf_counter()
    times: list[float] = []
    iterator = iter(loader)
    for _ in range(batches):
        batch = next(iterator)
        jax.block_until_ready(jax.tree.leaves(batch))
        times.append(time.perf_counter() - opened)
        if any(leaf.shape != (batch_size, length) for leaf in jax.tree.leaves(batch)):
            raise ValueError(f"a batch of other shapes: {jax.tree.map(lambda leaf: leaf.shape, batch)}")
    return {"open": opened - began, "times": times}


def main() -> None:
    mode, *rest = sys.argv[1:]
    found = build(Path(rest[0]), Path(rest[1])) if mode == "build" else load(Path(rest[0]), *map(int, rest[1:]))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the threads of its loader would continue to make batches


if __name__ == "__main__":
    main()
