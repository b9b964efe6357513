"""Compares file formats for a checkpoint's arrays: the evidence for docs/design/checkpoints.md.

Writes the same state of 32 arrays, split over 4 writers, in two formats of TensorStore, both with ``crc32c`` as last
codec: plain Zarr v3, one file a chunk; and one OCDBT database for each writer. Then it damages the files in every way,
one at a time, and reads all arrays back by TensorStore alone, without a manifest. Prints the number of files and bytes,
and how many damages were silent.

    python tests/bench/checkpoint_formats.py [--tries 150]
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

WRITERS = 4
ARRAYS = {f"leaf{n:02d}": np.random.default_rng(n).standard_normal((64, 32)).astype(np.float32) for n in range(32)}
CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def spec(kvstore: dict[str, Any]) -> dict[str, Any]:
    """A Zarr v3 array with one chunk for each writer."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [64 // WRITERS, 32]}}
    metadata = {"shape": [64, 32], "data_type": "float32", "chunk_grid": grid, "codecs": CODECS}
    return {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "store_data_equal_to_fill_value": True}


def plain(folder: Path, writer: int, name: str) -> dict[str, Any]:
    """All writers write to one array of plain files."""
    del writer
    return {"driver": "file", "path": f"{folder}/{name}/"}


def ocdbt(folder: Path, writer: int, name: str) -> dict[str, Any]:
    """Each writer writes to its own database."""
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/{writer}/"}, "path": f"{name}/"}


Form = Callable[[Path, int, str], dict[str, Any]]


def rows(writer: int) -> slice:
    """The rows of a writer."""
    return slice(writer * 64 // WRITERS, (writer + 1) * 64 // WRITERS)


def write(folder: Path, form: Form) -> None:
    """Write the whole state."""
    for writer in range(WRITERS):
        context = ts.Context()
        with ts.Transaction() as transaction:
            for name, array in ARRAYS.items():
                store = ts.open(spec(form(folder, writer, name)), create=True, open=True, context=context).result()
                store.with_transaction(transaction)[rows(writer)] = array[rows(writer)]


def outcome(folder: Path, form: Form) -> str:
    """``right`` (the damage had no effect), ``detected`` or ``silent``."""
    context = ts.Context()
    try:
        for writer in range(WRITERS):
            for name, array in ARRAYS.items():
                store = ts.open(spec(form(folder, writer, name)), open=True, context=context).result()
                if store[rows(writer)].read().result().tobytes() != array[rows(writer)].tobytes():
                    return "silent"
    except (ValueError, OSError, KeyError, NotImplementedError):
        return "detected"
    return "right"


def damages(files: list[Path], chance: random.Random) -> dict[str, Callable[[], None]]:
    """One damage of each kind, at a random place."""
    path = chance.choice(files)
    data = path.read_bytes()
    sizes: dict[int, list[Path]] = {}
    for file in files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    twins = [group for group in sizes.values() if len({file.read_bytes() for file in group}) > 1]

    def flip() -> None:
        bit = chance.randrange(8 * len(data))
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])

    def exchange() -> None:
        left, right = chance.sample(chance.choice(twins), 2)
        one, other = left.read_bytes(), right.read_bytes()
        left.write_bytes(other)
        right.write_bytes(one)

    return {
        "bit flipped": flip,
        "cut short": lambda: path.write_bytes(data[: chance.randrange(len(data))]) and None,
        "file missing": path.unlink,
        "two files exchanged": exchange if twins else lambda: None,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=150)
    tries = parser.parse_args().tries
    for title, form in (("plain Zarr v3", plain), ("OCDBT a writer", ocdbt)):
        with tempfile.TemporaryDirectory() as name:
            good, bad = Path(name) / "good", Path(name) / "bad"
            write(good, form)
            files = [path for path in good.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files)
            print(
                f"{title}: {len(files)} files, {size} bytes for {sum(array.nbytes for array in ARRAYS.values())} bytes "
                "of numbers"
            )
            chance = random.Random(1)
            for kind in ("bit flipped", "cut short", "file missing", "two files exchanged"):
                counts = {"detected": 0, "right": 0, "silent": 0}
                for _ in range(tries):
                    shutil.rmtree(bad, ignore_errors=True)
                    shutil.copytree(good, bad)
                    damages(sorted(path for path in bad.rglob("*") if path.is_file()), chance)[kind]()
                    counts[outcome(bad, form)] += 1
                print(f"  {kind:20s}", "  ".join(f"{what} {count:4d}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
