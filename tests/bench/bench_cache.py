"""The token cache: random rows from three formats of the same tokens, and tokenizing from compressed lines to a committed cache.

Formats: this project's flat files (with their checksums verified), zarr3 through TensorStore (chunks of 256 Ki tokens, as Levanter has),
and an Arrow file mapped into memory. The build is compared with the bare speed of the same tokenizer on the same texts in one process.

    python tests/bench/bench_cache.py [--megabytes 32] [--pairs 3]
"""

from __future__ import annotations

import os

os.environ |= {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # both sides on one processor; read at the first import

import argparse
import gzip
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorstore as ts

from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.open import ensure_caches
from halcyon.data.sources import stdlib_modules
from halcyon.tokenizer import load, loading
from halcyon_api.training_run import TrainingRunSpec, parse_run

ROWS, LENGTH = 1024, 2049


def spec_of(root: Path, corpus: Path, vocabulary: int) -> TrainingRunSpec:
    """A run over one file, tokenized by one process."""
    return parse_run(
        {
            "apiVersion": "halcyon.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": "bench"},
            "spec": {
                "accelerator": {"type": "cpu"},
                "model": {"llama": {"layers": 1, "hiddenSize": 8, "intermediateSize": 8, "heads": 1}},
                "tokenizer": {"bpe": {"vocabSize": vocabulary}},
                "data": {
                    "sources": [{"name": "text", "jsonl": {"paths": [str(corpus)]}}],
                    "cache": {"root": f"file://{root}", "workers": 1},
                },
                "trainer": {"steps": 1, "batchSize": 1},
                "checkpoint": {"root": f"file://{root}/run"},
            },
        }
    ).spec


def write_corpus(path: Path, size_bytes: int) -> list[str]:
    """The modules of this interpreter and of all that is installed beside it, as compressed lines."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    modules = (root / module for root in roots for module in stdlib_modules(root))
    texts: list[str] = []
    for module in modules:
        texts.append(module.read_text(errors="replace"))
        size_bytes -= len(texts[-1])
        if size_bytes <= 0:
            break
    with gzip.open(path, "wt", compresslevel=1) as stream:
        for text in texts:
            stream.write(json.dumps({"text": text}) + "\n")
    return texts


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def forget() -> None:
    """Have the tokenizer made anew, for it remembers what it has encoded."""
    loading._loaded = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        texts = write_corpus(base / "corpus.jsonl.gz", options.megabytes * 2**20)
        size = sum(len(text.encode()) for text in texts)
        spec = spec_of(base / "first", base / "corpus.jsonl.gz", 32_768)
        store, caches = ensure_caches(spec, process="bench")
        ratios = []
        for pair in range(options.pairs):
            folder = base / str(pair)
            (folder / "tokenizers").mkdir(parents=True)
            for kept in (base / "first/tokenizers").iterdir():
                (folder / "tokenizers" / kept.name).write_bytes(kept.read_bytes())
            spec = spec_of(folder, base / "corpus.jsonl.gz", 32_768)
            forget()
            bare = seconds(lambda: load(caches.tokenizer).encode_batch(texts))
            forget()
            whole = seconds(lambda spec=spec: ensure_caches(spec, process="bench"))
            ratios.append(bare / whole)
            rates = f"tokenizer alone {size / bare / 1e6:6.1f} MB/s   lines to cache {size / whole / 1e6:6.1f} MB/s"
            print(f"pair {pair}: {rates}   {ratios[-1]:.3f}")
        print(f"cache / tokenizer, median of {options.pairs} pairs: {statistics.median(ratios):.3f}")

        reader = TokenReader(store, "text", caches.ledgers["text"], Memory(1 << 30))
        stream = reader.gather(np.array([0]), np.array([reader.tokens]))
        zarr = ts.open(
            {
                "driver": "zarr3",
                "kvstore": f"file://{base}/zarr",
                "metadata": {
                    "shape": [len(stream)],
                    "data_type": "uint16",
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 18]}},
                    "codecs": ["bytes", {"name": "zstd", "configuration": {"level": 1}}],
                },
                "create": True,
            }
        ).result()
        zarr.write(stream).result()
        with pa.OSFile(str(base / "arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("t", pa.uint16())])) as writer:
            writer.write_table(pa.table({"t": stream}), max_chunksize=1 << 20)
        arrow = pa.ipc.open_file(pa.memory_map(str(base / "arrow"))).read_all()["t"]
        starts = np.random.default_rng(0).integers(0, len(stream) - LENGTH, ROWS)

        def read_zarr() -> list[np.ndarray]:
            futures = [zarr[start : start + LENGTH].read() for start in starts.tolist()]
            return [future.result() for future in futures]

        readers: dict[str, Callable[[], object]] = {
            "flat files, verified": lambda: reader.gather(starts, np.full(ROWS, LENGTH)),
            "zarr3, TensorStore": read_zarr,
            "Arrow, mapped": lambda: [arrow.slice(start, LENGTH).to_numpy() for start in starts.tolist()],
        }
        for name, read in readers.items():
            first = seconds(read)
            later = min(seconds(read) for _ in range(options.pairs))
            rate = ROWS * LENGTH / later / 1e6
            print(f"{name:22} {ROWS} rows of {LENGTH}: first {first * 1e3:7.1f} ms   later {later * 1e3:7.1f} ms   {rate:8.1f} M tokens/s")


if __name__ == "__main__":
    main()
