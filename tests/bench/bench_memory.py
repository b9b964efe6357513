"""Memory of building and loading a token cache: it must not grow with the size of the corpus, nor with that of a
document.

Generates compressed lines of a given size, builds their cache, loads random batches from all of it, and prints the peak
memory of every process: its own (anonymous) memory, which cannot be reclaimed, and the pages of mapped files, which the
system drops if it needs memory. Then the same for single documents of very many characters. The design limit is 1500 MB
of own memory a process.

    python tests/bench/bench_memory.py [--gigabytes 1] [--characters 100e6] [--workers 2] [--steps 200]
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from halcyon.data.open import ensure_caches
from halcyon.data.sources import stdlib_modules
from halcyon_api.training_run import TrainingRunSpec
from tests.families import llama

sys.path.append(str(Path(__file__).parents[2]))
from tests.trainer.support.datasets import open_dataset

MEMBER_BYTES = 2**23
MEMBERS = 24
POLL_SECONDS = 0.05


def spec_of(root: Path, source: dict[str, Any], tokenizer: dict[str, Any], workers: int) -> TrainingRunSpec:
    """A run over one source, in batches of 64 sequences of 2048."""
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": llama(1, 8, 8, 1),
            "tokenizer": tokenizer,
            "data": {
                "sources": [{"name": "text", **source}],
                "cache": {"root": f"file://{root}", "workers": workers},
                "mixture": {"stop": "restart"},
            },
            "trainer": {"steps": 10**6, "batchSize": 64, "sequenceLength": 2048},
            "checkpoint": {"root": f"file://{root}/run"},
        }
    )


# Corpora


def texts() -> list[str]:
    """The modules of this interpreter and of all installed packages."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    modules = (root / module for root in roots for module in stdlib_modules(root))
    found, size = [], 0
    for module in modules:
        found.append(module.read_text(errors="replace"))
        size += len(found[-1])
        if size > MEMBERS * MEMBER_BYTES:
            break
    return found


def members(found: list[str]) -> Iterator[tuple[bytes, int]]:
    """gzip members with lines of documents of a few kilobytes, and the bytes of their text.

    Each member has different documents.
    """
    everything = "\n".join(found)
    start = number = 0
    for _ in range(MEMBERS):
        lines, size = [], 0
        while size < MEMBER_BYTES:
            length = 500 + (number * 2654435761) % 6000
            text = (everything[start : start + length] or everything[:length]).encode(errors="replace").decode()
            start, number, size = (start + length) % len(everything), number + 1, size + len(text.encode())
            lines.append(json.dumps({"id": number, "text": text}))
        yield gzip.compress(("\n".join(lines) + "\n").encode(), 1), size


def write_corpus(path: Path, size_bytes: int) -> int:
    """Write a file of several members with at least `size_bytes` bytes of text; returns the bytes of text."""
    made, written = list(members(texts())), 0
    with path.open("wb") as stream:
        for content, size in cycle(made):
            if written >= size_bytes:
                return written
            stream.write(content)
            written += size
    raise AssertionError("unreachable: the cycle of members never ends")


def words(alphabet: str) -> Callable[[int], str]:
    """A function that makes a text of about the given number of characters."""
    numbers = np.random.default_rng(0)
    letters = np.array(list(alphabet))

    def make(characters: int) -> str:
        lengths = numbers.integers(2, 10, characters // 6)
        chosen = letters[numbers.integers(0, len(letters), int(lengths.sum()))]
        chosen[np.cumsum(lengths)[:-1]] = " "
        return "".join(chosen)

    return make


def write_document(path: Path, alphabet: str, characters: int, *, escaped: bool) -> int:
    """Write one document of about `characters` characters, as a text or as a line between two short lines; returns its
    bytes of UTF-8.
    """
    text = words(alphabet)(2**20)
    size = 0
    lines = path.name.endswith((".jsonl", ".jsonl.gz"))
    inside = json.dumps(text, ensure_ascii=escaped)[1:-1] if lines else text
    with gzip.open(path, "wt", 1) if path.suffix == ".gz" else path.open("w") as stream:
        if lines:
            stream.write('{"text": "first"}\n{"text": "')
        for _ in range(round(characters / len(text))):
            stream.write(inside)
            size += len(text.encode())
        if lines:
            stream.write('"}\n{"text": "last"}\n')
    return size


# Measuring


@dataclass
class Peak:
    """The peak memory of a process, in bytes."""

    role: str
    own: int = 0
    mapped: int = 0


def peaks_of(child: subprocess.Popen[bytes]) -> list[Peak]:
    """Watch a process and its descendants until it ends."""
    found: dict[int, Peak] = {}
    while child.poll() is None:
        for pid in tree(child.pid):
            try:
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                own, mapped = (int(status[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
            except (OSError, KeyError, ValueError):
                continue  # the process has just ended
            peak = found.setdefault(pid, Peak("the process itself" if pid == child.pid else "worker"))
            peak.own, peak.mapped = max(peak.own, own), max(peak.mapped, mapped)
        time.sleep(POLL_SECONDS)
    if child.returncode:
        raise SystemExit(f"the measured process ended with {child.returncode}")
    return [
        peak for peak in found.values() if peak.role != "worker" or peak.own > 40e6
    ]  # without multiprocessing's resource tracker


def tree(pid: int) -> Iterator[int]:
    """The ids of a process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from tree(int(child))


def measured(what: str, size_bytes: int, act: str, *arguments: object) -> None:
    """Run a part of this file in a separate process, and print its time and memory."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--act", act, *map(str, arguments)]
    peaks = peaks_of(subprocess.Popen(command))
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.1f} s, {size_bytes / seconds / 1e6:.1f} MB of text a second", flush=True)
    for peak in peaks:
        print(f"    {peak.role:20} own {peak.own / 1e6:7.0f} MB   mapped files {peak.mapped / 1e6:7.0f} MB", flush=True)


# The measured parts


def build(spec: TrainingRunSpec) -> None:
    ensure_caches(spec, process="bench")


def load(spec: TrainingRunSpec, steps: int) -> None:
    dataset = open_dataset(spec)
    chosen = np.random.default_rng(1).integers(0, dataset.train_sequences // 64 or 1, steps).tolist()
    began = time.perf_counter()
    for step in chosen:
        dataset.examples(dataset.train_rows(step))
    seconds = time.perf_counter() - began
    print(f"{steps} random batches, {steps * 64 * 2048 / seconds / 1e6:.1f} M tokens a second", flush=True)


def act(arguments: list[str]) -> None:
    name, root, path, tokenizer, workers, steps = arguments
    kind = "jsonl" if ".jsonl" in path else "text"
    spec = spec_of(Path(root), {kind: {"paths": [path]}}, json.loads(tokenizer), int(workers))
    build(spec) if name == "build" else load(spec, int(steps))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--characters", type=float, default=100e6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--act", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.act:
        act(options.act)
        return
    bpe = json.dumps({"bpe": {"vocabSize": options.vocabulary, "sampleBytes": 2**24}})
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        path = base / "corpus.jsonl.gz"
        if options.gigabytes:
            began = time.perf_counter()
            size = write_corpus(path, int(options.gigabytes * 1e9))
            print(
                f"{size / 1e9:.2f} GB of text in {path.stat().st_size / 1e9:.2f} GB of gz, in "
                f"{time.perf_counter() - began:.0f} s"
            )
            measured("building", size, "build", base / "cache", path, bpe, options.workers, 0)
            measured("loading", size, "load", base / "cache", path, bpe, options.workers, options.steps)
            shutil.rmtree(base / "cache")
            path.unlink()
        for name, alphabet, escaped in DOCUMENTS if options.characters else ():
            path = base / name
            size = write_document(path, alphabet, int(options.characters), escaped=escaped)
            letters = f"{'escaped ' if escaped else ''}{'ASCII' if alphabet.isascii() else 'wide'}"
            for tokenizer in (bpe, json.dumps({"byte": {}})):
                what = (
                    f"{options.characters / 1e6:.0f} M characters ({name}, {letters}, "
                    f"{next(iter(json.loads(tokenizer)))})"
                )
                measured(f"one document of {what}", size, "build", base / "cache", path, tokenizer, 1, 0)
                shutil.rmtree(base / "cache")
            path.unlink()


DOCUMENTS = (
    ("a.jsonl.gz", "etaoinshrdlu", False),
    ("b.jsonl", "etaoinshrdlu", False),
    ("c.txt", "etaoinshrdlu", False),
    ("d.jsonl.gz", "etaoinshrdl\U0001f600", False),
    ("e.jsonl.gz", "中文字母和很多其他的字", True),
    ("f.txt", "中文字母和很多其他的字", False),
)


if __name__ == "__main__":
    main()
