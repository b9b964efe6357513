"""Small corpora, run specs that read them, and the contents of their caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from halcyon.data.cache.ensure import Caches
from halcyon.data.cache.ledger import LEDGER_KEY, Ledger, decode
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.host.storage.store import Store
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.training_run import TrainingRunSpec
from tests.families import TINIEST


def write_jsonl(path: Path, rows: int, *, seed: int = 0) -> Path:
    """Write rows with texts of many lengths, some of them empty; returns the path."""
    numbers = np.random.default_rng(seed)
    with path.open("w") as stream:
        for row in range(rows):
            words = [f"w{numbers.integers(1000)}" for _ in range(int(numbers.integers(0, 40)))]
            stream.write(json.dumps({"text": " ".join(words), "number": row}) + "\n")
    return path


def spec_of(
    root: str, sources: list[dict[str, Any]], *, checkpoint: dict[str, Any] | None = None, **more: Any
) -> TrainingRunSpec:
    """A run's spec; `more` are fields of `spec`, such as ``tokenizer`` or ``data__cache``."""
    spec: dict[str, Any] = {
        "accelerator": {"type": "cpu", "topology": "1x1"},
        "model": TINIEST,
        "data": {"sources": sources},
        "trainer": {"steps": 10, "batchSize": 4, "sequenceLength": 16},
        "checkpoint": {"root": root, **(checkpoint or {})},
    }
    for path, value in more.items():
        section, _, name = path.partition("__")
        if name:
            spec[section][name] = value
        else:
            spec[section] = value
    return parse_run(
        {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": "r"}, "spec": spec}
    ).spec


def jsonl(path: Path, name: str = "web", **more: Any) -> dict[str, Any]:
    return {"name": name, "jsonl": {"paths": [str(path)]}, **more}


def ledger_of(root: str, name: str = "web") -> Ledger:
    """The stored ledger of a source below a checkpoint root."""
    content = Store(CheckpointSpec(root=f"{root}/data")).read(f"{name}/{LEDGER_KEY}").data
    assert content is not None
    return decode(content)


def whole_stream(store: Store, caches: Caches, name: str = "web") -> np.ndarray:
    """All tokens of a source."""
    reader = TokenReader(store, name, caches.ledgers[name], Memory(1 << 20))
    return reader.gather(np.array([0]), np.array([reader.tokens]))


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a cache except the builder's lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("BUILDER.json", "LOCK")
    }
