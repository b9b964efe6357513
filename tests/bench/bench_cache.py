"""Speed of the token cache: random rows in three formats of the same tokens, and a build from compressed lines to a
committed cache.

Formats: this project's flat files (with verified checksums), zarr3 through TensorStore (chunks of 256 Ki tokens, as in
Levanter), and an Arrow file mapped into memory. The build runs in one process. It is compared with the same tokenizer
alone on the same texts; with a floor, which is the time of that tokenizer, of decompression and of parsing the lines,
one after another; and with `tiktoken` and `tokenizers` alone on the same vocabulary.

    python tests/bench/bench_cache.py [--megabytes 128] [--pairs 3]
"""

from __future__ import annotations

import os

from tests.families import llama

os.environ |= {
    "FASTOKENS_BPE_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}  # one processor for both sides; read at the first import

import argparse
import faulthandler
import gc
import gzip
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import tensorstore as ts
import tiktoken
import tokenizers

from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.open import ensure_caches
from halcyon.data.sources import Access, stdlib_modules
from halcyon.data.sources.decompress import decompressed
from halcyon.data.sources.files import read_chunks, stat_file
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, load
from halcyon.tokenizer.bpe import SPLIT_PATTERN
from halcyon.tokenizer.byte_level import spell
from halcyon.tokenizer.encoders import ReferenceEncoder
from halcyon.tokenizer.tiktoken_ranks import TiktokenEncoder
from halcyon_api.training_run import TrainingRunSpec

ROWS, LENGTH = 1024, 2049
REFERENCE_BYTES = 4 * 2**20
HANGING_SECONDS = 120
"""The stacks of all threads are printed every 120 s, in case of a hang."""


def spec_of(root: Path, corpus: Path, vocabulary: int) -> TrainingRunSpec:
    """A run over one file, tokenized by one process. Small shards give several shards, as in a large corpus."""
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": llama(1, 8, 8, 1),
            "tokenizer": {"bpe": {"vocabSize": vocabulary}},
            "data": {
                "sources": [{"name": "text", "jsonl": {"paths": [str(corpus)]}}],
                "cache": {"root": f"file://{root}", "workers": 1, "shardTokens": 2**22},
            },
            "trainer": {"steps": 1, "batchSize": 1},
            "checkpoint": {"root": f"file://{root}/run"},
        }
    )


def write_corpus(path: Path, size_bytes: int) -> list[str]:
    """Write the modules of this interpreter and of all installed packages as compressed lines; returns the texts."""
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
    return cost(call).seconds


class Cost(NamedTuple):
    """The duration of a call."""

    seconds: float
    processor_seconds: float


def cost(call: Callable[[], object]) -> Cost:
    gc.collect()  # collect now, so that no collection falls into the measurement
    began, busy = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - began, time.process_time() - busy)


def fresh(definition: TokenizerDefinition) -> Tokenizer:
    """A new tokenizer, because it caches what it has encoded.

    Its set-up is done, because that takes as long as some megabytes of text.
    """
    load.cache_clear()
    tokenizer = load(definition)
    tokenizer.encode("ready")
    return tokenizer


def batched(texts: list[str], size_bytes: int) -> Iterator[list[str]]:
    """The texts in batches of the size of a piece, at which the encoder is fastest."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= size_bytes:
            yield batch
            batch, size = [], 0
    yield batch


def encode(tokenizer: Tokenizer, batches: list[list[str]]) -> None:
    for batch in batches:
        tokenizer.encode_batch(batch)


def unpacked(path: Path) -> Iterator[bytes | memoryview]:
    """The decompressed corpus, in chunks."""
    return decompressed(str(path), read_chunks(stat_file(str(path)), Access()))


def reference_rates(definition: TokenizerDefinition, texts: list[str]) -> dict[str, float]:
    """Bytes a second of `tiktoken` and `tokenizers` alone, on one processor."""
    size, sample = 0, []
    for text in texts:
        sample.append(text)
        size += len(text.encode())
        if size > REFERENCE_BYTES:
            break
    reference = tokenizers.Tokenizer.from_str(definition.content.decode())
    byte_of = {spell(bytes([byte])): byte for byte in range(256)}
    special = load(definition).special_tokens
    ranks = {
        bytes(byte_of[sign] for sign in token): rank
        for token, rank in reference.get_vocab().items()
        if token not in special
    }
    encoding = tiktoken.Encoding("bench", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=dict(special))
    encoders = {"tiktoken": TiktokenEncoder(encoding), "tokenizers": ReferenceEncoder(reference)}
    return {
        name: size / cost(lambda encoder=encoder: encoder(sample)).processor_seconds
        for name, encoder in encoders.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    faulthandler.dump_traceback_later(HANGING_SECONDS, repeat=True)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        texts = write_corpus(base / "corpus.jsonl.gz", options.megabytes * 2**20)
        size = sum(len(text.encode()) for text in texts)
        spec = spec_of(base / "first", base / "corpus.jsonl.gz", 32_768)
        store, caches = ensure_caches(spec, process="bench")
        rates = reference_rates(caches.tokenizer, texts)
        lines = b"".join(unpacked(base / "corpus.jsonl.gz")).splitlines()
        batches = list(batched(texts, 4 * 2**20))
        ratios: dict[str, list[float]] = {}
        for pair in range(options.pairs):
            folder = base / str(pair)
            (folder / "tokenizers").mkdir(parents=True)
            for kept in (base / "first/tokenizers").iterdir():
                (folder / "tokenizers" / kept.name).write_bytes(kept.read_bytes())
            spec = spec_of(folder, base / "corpus.jsonl.gz", 32_768)
            tokenizer = fresh(caches.tokenizer)
            bare = cost(lambda tokenizer=tokenizer: encode(tokenizer, batches))
            unpacking = cost(lambda: sum(map(len, unpacked(base / "corpus.jsonl.gz"))))
            parsing = cost(lambda: sum(len(orjson.loads(line)) for line in lines))
            fresh(caches.tokenizer)
            whole = cost(lambda spec=spec: ensure_caches(spec, process="bench"))
            floor = Cost(*map(sum, zip(bare, unpacking, parsing, strict=True)))
            for name, other in (("tokenizer alone", bare), ("tokenizer, gz and JSON", floor)):
                ratios.setdefault(f"{name}, time", []).append(other.seconds / whole.seconds)
                ratios.setdefault(f"{name}, processor time", []).append(
                    other.processor_seconds / whole.processor_seconds
                )
            for name, rate in rates.items():
                ratios.setdefault(f"bare {name}, processor time", []).append(size / whole.processor_seconds / rate)
            parts = {"tokenizer alone": bare, "gz": unpacking, "JSON": parsing, "lines to cache": whole}
            shown = (
                f"{name} {size / part.seconds / 1e6:.1f} ({size / part.processor_seconds / 1e6:.1f})"
                for name, part in parts.items()
            )
            print(f"pair {pair}, MB/s (MB a second of processor): {'   '.join(shown)}")
        for name, found in ratios.items():
            print(f"lines to cache / {name}: {statistics.median(found):.3f}, median of {options.pairs} pairs")

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
        with (
            pa.OSFile(str(base / "arrow"), "wb") as sink,
            pa.ipc.new_file(sink, pa.schema([("t", pa.uint16())])) as writer,
        ):
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
            print(
                f"{name:22} {ROWS} rows of {LENGTH}: first {first * 1e3:7.1f} ms   later {later * 1e3:7.1f} ms   "
                f"{rate:8.1f} M tokens/s"
            )


if __name__ == "__main__":
    main()
