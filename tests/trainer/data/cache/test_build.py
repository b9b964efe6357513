"""A cache holds each document once, in order, whatever built it and however often it was killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from halcyon.data.cache import work
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.open import ensure_caches
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import BYTE, load
from tests.trainer.data.cache.runs import files_below, jsonl, ledger_of, spec_of, whole_stream, write_jsonl

REPOSITORY = Path(__file__).resolve().parents[4]


def build(root: Path, corpus: Path, *, workers: int = 1) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.trainer.data.cache.build_child", f"file://{root}", str(corpus), str(workers)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def test_every_document_is_there_once_and_in_order(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    store, caches = ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)]), process="p")
    tokenizer, texts = load(BYTE), [eval(line)["text"] for line in corpus.read_text().splitlines()]  # noqa: S307 - our own lines
    expected = [np.concatenate([[tokenizer.bos_id], tokenizer.encode(text), [tokenizer.eos_id]]) for text in texts if text]
    assert np.array_equal(whole_stream(store, caches), np.concatenate(expected))
    ledger = caches.ledgers["web"]
    assert (ledger.rows, ledger.documents, ledger.finished) == (300, len(expected), True)
    assert ledger.size_bytes == sum(len(text) for text in texts)
    assert sum(shard.empty_rows for shard in ledger.shards) == 300 - len(expected)
    reader = TokenReader(store, "web", ledger, Memory(1 << 20))
    assert reader.document_ends().tolist() == np.cumsum([len(document) for document in expected]).tolist()
    assert reader.origins().tolist() == [[0, row] for row, text in enumerate(texts) if text]


def test_a_second_run_finds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(write_jsonl(tmp_path / "c.jsonl", 20))])
    ensure_caches(spec, process="one")
    monkeypatch.setattr(work, "Worker", None)
    ensure_caches(spec, process="two")


@pytest.mark.slow
def test_workers_change_no_byte(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 3000)
    for workers in (1, 3):
        finish(build(tmp_path / f"root{workers}", corpus, workers=workers))
    one, three = (files_below(tmp_path / f"root{workers}") for workers in (1, 3))
    assert len(one) > 20
    assert one == three


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "wanted_kills"), [(1, 12), (2, 5)])
def test_sigkill_at_random_moments_changes_no_byte(tmp_path: Path, workers: int, wanted_kills: int) -> None:
    """Each time after some more shards: from then on everything up to the last commit is kept, and nothing else counts."""
    corpus = write_jsonl(tmp_path / "c.jsonl", 6000)
    finish(build(tmp_path / "undisturbed", corpus))
    chance, kills = random.Random(workers), 0
    root = tmp_path / "killed"
    ledger = root / "data" / "web" / "LEDGER.json"
    while kills < wanted_kills:
        before = len(ledger_of(f"file://{root}").shards) if ledger.exists() else 0
        process = build(root, corpus, workers=workers)
        deadline = time.monotonic() + 60
        wanted = before + chance.randint(0, 3)
        while process.poll() is None and (not ledger.exists() or len(ledger_of(f"file://{root}").shards) < wanted):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        if process.poll() is not None:
            break
        os.killpg(process.pid, 9)
        process.communicate()
        kills += 1
    assert kills >= wanted_kills - 3, "it was at its end before it had been killed often enough"
    finish(build(root, corpus, workers=workers))
    wanted_files, found = files_below(tmp_path / "undisturbed" / "data"), files_below(root / "data")
    assert wanted_files == {name: found[name] for name in wanted_files}
    kept = {shard.path for shard in ledger_of(f"file://{root}").shards}
    assert {name.rsplit("/", 1)[0] + "/" for name in wanted_files if "/shards/" in name} == kept


@pytest.mark.slow
def test_a_builder_that_dies_takes_its_workers_with_it(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 6000)
    process = build(tmp_path / "root", corpus, workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(workers := children.read_text().split()) < 3:  # two workers and the tracker of their semaphores
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.kill()
    process.communicate()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline


def test_a_row_that_cannot_be_read_stops_the_build_and_keeps_nothing_half_written(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 16)
    with corpus.open("a") as stream:
        stream.write('{"other": 1}\n')
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(corpus)])
    with pytest.raises(BadConfiguration, match=r"^spec\.data\.sources\[web\].*c\.jsonl") as error:
        ensure_caches(spec, process="p")
    assert "16" in str(error.value)
    assert not files_below(tmp_path / "root" / "data" / "web")


def test_only_empty_documents_are_told(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(BadConfiguration, match=r"^spec\.data\.sources\[web\]: all its documents are empty; give it some text$"):
        ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(tmp_path / "c.jsonl")]), process="p")
