"""The costs of bringing text to the tokenizer: decompress, cut, hand over, parse, make documents. Each is the best of
several runs.

All of it together must cost less than a tenth of tokenizing. The serial part (the parent's) is shown separately,
because more workers do not shorten it. The chosen libraries are compared with the ones that they replace.

python tests/bench/bench_sources.py [--megabytes 96]
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import zstandard
from isal import isal_zlib
from pyarrow import parquet
from timing import best_seconds

from halcyon.data.formats import build_formatter
from halcyon.data.sources import Access, Piece, list_files, pieces, read_piece
from halcyon.host.linux import keep_freed_memory
from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import train_bpe
from halcyon_api.spec.sources import DataSourceSpec, JsonlSourceSpec, ParquetSourceSpec, StdlibSourceSpec

ACCESS = Access()
TOKENIZING_MB_PER_SECOND = (15, 25, 40)


class _NoTokens:
    """A tokenizer that takes no time, to measure the formatter's cost alone."""

    vocab_size, bos_id, eos_id, pad_id, fingerprint = 259, 256, 257, 258, "0" * 64
    token_bytes = np.ones(259, np.int32)
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    special_tokens: dict[str, int] = {}  # noqa: RUF012
    _ids = np.zeros(10**6, np.int32)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        return [self._ids[: len(text) // 4] for text in texts]


def corpus(wanted_bytes: int) -> list[str]:
    """Documents of a few kilobytes: the standard library's text, cut and repeated."""
    source = DataSourceSpec(name="stdlib", stdlib=StdlibSourceSpec())
    rows = [row for piece in pieces(source, list_files(source, ACCESS), ACCESS) for row in read_piece(piece, ACCESS)]
    text = b"\n".join(row.value for row in rows if isinstance(row.value, bytes)).decode(errors="replace")
    size, documents, start = 0, [], 0
    while size < wanted_bytes:
        length = 500 + (start * 2654435761) % 6000
        documents.append(text[start % len(text) :][:length])
        size, start = size + len(documents[-1].encode()), start + length
    return documents


def write(folder: Path, documents: list[str]) -> dict[str, DataSourceSpec]:
    lines = b"".join(
        orjson.dumps({"id": number, "url": "https://example.org/", "text": text}) + b"\n"
        for number, text in enumerate(documents)
    )
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines, 3))
    table = pa.table({"id": list(range(len(documents))), "text": documents})
    parquet.write_table(table, folder / "small.parquet", row_group_size=1000, compression="zstd")
    parquet.write_table(table, folder / "large.parquet", row_group_size=10**6, compression="zstd")
    sources: dict[str, dict[str, Any]] = {
        "a.jsonl": {"jsonl": JsonlSourceSpec(paths=[str(folder / "a.jsonl")])},
        "a.jsonl.gz": {"jsonl": JsonlSourceSpec(paths=[str(folder / "a.jsonl.gz")])},
        "a.jsonl.zst": {"jsonl": JsonlSourceSpec(paths=[str(folder / "a.jsonl.zst")])},
        "small.parquet": {"parquet": ParquetSourceSpec(paths=[str(folder / "small.parquet")])},
        "large.parquet": {"parquet": ParquetSourceSpec(paths=[str(folder / "large.parquet")])},
    }
    return {name: DataSourceSpec(name="bench", **kind) for name, kind in sources.items()}


def _receive(connection: Any) -> None:
    keep_freed_memory()
    while connection.recv() is not None:
        connection.send(True)


@contextmanager
def handing_over(made: list[Piece]) -> Iterator[Callable[[], None]]:
    """A function that sends pieces to another process, which unpickles them: one at a time, so the time includes both
    sides.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_receive, args=(theirs,), daemon=True)
    process.start()
    ours.send(made[0])
    ours.recv()

    def work() -> None:
        for piece in made:
            ours.send(piece)
            ours.recv()

    yield work
    ours.send(None)
    process.join()


def stages(name: str, source: DataSourceSpec, size_bytes: int) -> None:
    files = list_files(source, ACCESS)
    made = list(pieces(source, files, ACCESS))
    formatter = build_formatter(source.format, _NoTokens(), where="bench")  # type: ignore[arg-type]
    rows = [read_piece(piece, ACCESS) for piece in made]
    with handing_over(made) as work:
        handed = best_seconds(work)
    seconds = [
        best_seconds(lambda: sum(piece.rows for piece in pieces(source, files, ACCESS))),
        handed,
        best_seconds(lambda: [read_piece(piece, ACCESS) for piece in made]),
        best_seconds(lambda: [formatter(one) for one in rows]),
    ]
    rates = [f"{size_bytes / 1e6 / second:7.0f}" for second in (*seconds, sum(seconds))]
    shares = [f"{100 * sum(seconds) / (size_bytes / 1e6 / rate):4.1f} %" for rate in TOKENIZING_MB_PER_SECOND]
    print(f"{name:>14} {len(made):>6} {' '.join(rates)}   {' '.join(shares)}")


def libraries(folder: Path, size_bytes: int) -> None:
    packed, lines = (folder / "a.jsonl.gz").read_bytes(), (folder / "a.jsonl").read_bytes().splitlines()
    pairs: list[tuple[str, Callable[[], object]]] = [
        ("gz: zlib", lambda: zlib.decompressobj(31).decompress(packed)),
        ("gz: isal", lambda: isal_zlib.decompressobj(31).decompress(packed)),
        ("json: json", lambda: [json.loads(line) for line in lines]),
        ("json: orjson", lambda: [orjson.loads(line) for line in lines]),
    ]
    for name, work in pairs:
        print(f"{name:>14} {size_bytes / 1e6 / best_seconds(work, 3):7.0f} MB/s")


def tokenizing(documents: list[str]) -> float:
    """MB/s of one core for a tokenizer that is trained here, one document after another."""
    sample = documents[:: max(1, len(documents) // 2000)]
    tokenizer = load(train_bpe(sample, 8192, ()))
    size_bytes = sum(len(text.encode()) for text in sample)
    return size_bytes / 1e6 / best_seconds(lambda: [tokenizer.encode(text) for text in sample], 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=96)
    options = parser.parse_args()
    print(f"memory kept: {keep_freed_memory()}")
    documents = corpus(int(options.megabytes * 1e6))
    size_bytes = sum(len(text.encode()) for text in documents)
    print(f"tokenizing (BPE of 8192 trained here): {tokenizing(documents):.1f} MB/s a core")
    print(f"{len(documents)} documents, {size_bytes / 1e6:.0f} MB of text; MB of text a second of one core")
    print(
        f"{'':>14} pieces  parent handed   parse  format     all   of tokenizing at "
        f"{' and '.join(map(str, TOKENIZING_MB_PER_SECOND))} MB/s"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, source in write(folder, documents).items():
            stages(kind, source, size_bytes)
        libraries(folder, size_bytes)


if __name__ == "__main__":
    main()
