"""A cache holds each document once, in order, for any number of workers and any number of kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from halcyon.data.cache import work
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import BYTE, load
from halcyon_devcluster.waiting import until
from tests.trainer.data.cache.runs import files_below, jsonl, ledger_of, spec_of, whole_stream, write_jsonl
from tests.trainer.support.datasets import ensure_caches

REPOSITORY = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Build:
    """A build in a separate process."""

    pid: int
    _answers: IO[str]

    def exit_code(self) -> int:
        """Wait for the end of the build."""
        return int(self._answers.readline())

    def running(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        assert self.exit_code() == -signal.SIGKILL


class Builds:
    """Starts builds, each in a separate process."""

    def __init__(self, temporary: Path) -> None:
        command = [sys.executable, "-m", "tests.trainer.data.cache.build_child"]
        environment = os.environ | {"TMPDIR": str(temporary)}  # killed builds leave temporary files
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, root: Path, corpus: Path, *, workers: int = 1, hold: str = "-") -> Build:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"file://{root} {corpus} {workers} {hold}\n")
        self._process.stdin.flush()
        return Build(int(self._process.stdout.readline()), self._process.stdout)

    def finish(self, root: Path, corpus: Path, **options: Any) -> None:
        """Build a whole cache."""
        assert self.start(root, corpus, **options).exit_code() == 0

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    builds = Builds(tmp_path_factory.mktemp("aside"))
    yield builds
    builds.close()


def test_every_document_is_there_once_and_in_order(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 300)
    store, caches = ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(corpus)]), process="p")
    tokenizer, texts = load(BYTE), [eval(line)["text"] for line in corpus.read_text().splitlines()]  # noqa: S307 - our own lines
    expected = [
        np.concatenate([[tokenizer.bos_id], tokenizer.encode(text), [tokenizer.eos_id]]) for text in texts if text
    ]
    assert np.array_equal(whole_stream(store, caches), np.concatenate(expected))
    ledger = caches.ledgers["web"]
    assert (ledger.counts.rows, ledger.counts.documents, ledger.finished) == (300, len(expected), True)
    assert ledger.counts.size_bytes == sum(len(text) for text in texts)
    assert sum(shard.empty_rows for shard in ledger.shards) == 300 - len(expected)
    reader = TokenReader(store, "web", ledger, Memory(1 << 20))
    assert reader.document_ends().tolist() == np.cumsum([len(document) for document in expected]).tolist()
    assert reader.origins_of(np.arange(ledger.counts.documents)).tolist() == [
        [0, row] for row, text in enumerate(texts) if text
    ]


def test_a_second_run_finds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(write_jsonl(tmp_path / "c.jsonl", 20))])
    ensure_caches(spec, process="one")
    monkeypatch.setattr(work, "Worker", None)
    ensure_caches(spec, process="two")


@pytest.mark.slow
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, builds: Builds) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 3000)
    for workers in (1, 3):
        builds.finish(tmp_path / f"root{workers}", corpus, workers=workers)
    one, three = (files_below(tmp_path / f"root{workers}") for workers in (1, 3))
    assert len(one) > 20
    assert one == three


BUILDS = [(2, 3)]
MORE_BUILDS = [(1, 9)]
LONG_BUILDS = [(1, 120), (2, 40)]
HOLDS = {"written_files": "files:14", "whole_shards": "commits:3", "committed_shards": "files:14"}
"""Where a build waits for a late kill, by the awaited progress.

A shard has four files; at most three shards are committed.
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "wanted_kills"),
    [
        *BUILDS,
        *(pytest.param(*build, marks=pytest.mark.variant) for build in MORE_BUILDS),
        *(pytest.param(*build, marks=pytest.mark.long) for build in LONG_BUILDS),
    ],
)
def test_sigkill_at_random_moments_changes_no_byte(
    tmp_path: Path, builds: Builds, workers: int, wanted_kills: int
) -> None:
    """Kill between a shard's files, before and after its commit. Together with kills of loading, fifty."""
    corpus = write_jsonl(tmp_path / "c.jsonl", 250 * wanted_kills)  # more than three shards for each kill
    builds.finish(tmp_path / "undisturbed", corpus)
    chance, root = random.Random(wanted_kills), tmp_path / "killed"
    moments: set[str] = set()
    for kill in range(wanted_kills):
        progress = chance.choice([written_files, whole_shards, committed_shards])
        wanted = progress(root) + chance.randint(1, 8 if progress is written_files else 3)
        process = builds.start(root, corpus, workers=workers, hold=HOLDS[progress.__name__])
        until(
            lambda progress=progress, wanted=wanted, process=process: progress(root) >= wanted or not process.running(),
            timeout_seconds=60,
            interval_seconds=0.0002,
            failure=lambda progress=progress, wanted=wanted: f"{progress(root)} {progress.__name__}, not {wanted}",
        )
        assert process.running(), f"the build ended after {kill} kills"
        process.kill()
        moments.add(moment_of(root))
    # The next shard begins right after a commit, so a few kills may all miss the moment between.
    assert len(moments) > 1 or wanted_kills < 9, "all kills hit the same moment"
    assert not ledger_of(f"file://{root}").finished
    builds.finish(root, corpus, workers=workers)
    wanted_files, found = files_below(tmp_path / "undisturbed" / "data"), files_below(root / "data")
    assert wanted_files == {name: found[name] for name in wanted_files}
    kept = ledger_of(f"file://{root}").shards
    assert {name.rsplit("/", 1)[0] + "/" for name in wanted_files if "/shards/" in name} == {
        shard.path for shard in kept
    }


def written_files(root: Path) -> int:
    """Number of files of all shards, committed or not."""
    return sum(1 for shard in (root / "data/web/shards").glob("*") for _ in shard.glob("*"))


def whole_shards(root: Path) -> int:
    """Number of shards that have all their files, committed or not."""
    return sum(1 for _ in (root / "data/web/shards").glob("*/checks"))


def committed_shards(root: Path) -> int:
    ledger = root / "data/web/LEDGER.json"
    return ledger.read_bytes().count(b'"path"') if ledger.exists() else 0


def moment_of(root: Path) -> str:
    """The moment at which a build was killed."""
    committed = committed_shards(root)
    begun = [shard for shard in (root / "data/web/shards").iterdir() if int(shard.name.split(".")[0]) >= committed]
    if not begun:
        return "committed"
    return "before the commit" if (begun[0] / "checks").exists() else "between files"


@pytest.mark.slow
def test_the_workers_of_a_killed_builder_end_too(tmp_path: Path, builds: Builds) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 6000)
    process = builds.start(tmp_path / "root", corpus, workers=2, hold="commits:1")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def workers() -> list[str]:
        return children.read_text().split()

    # Two workers and multiprocessing's resource tracker.
    until(
        lambda: len(workers()) >= 3,
        timeout_seconds=60,
        interval_seconds=0.01,
        failure=lambda: f"it has {len(workers())} children",
    )
    started = [Path(f"/proc/{worker}") for worker in workers()]
    os.kill(process.pid, signal.SIGKILL)
    assert process.exit_code() == -signal.SIGKILL
    until(
        lambda: not any(worker.exists() for worker in started),
        timeout_seconds=60,
        interval_seconds=0.01,
        failure=lambda: "a worker outlives its builder",
    )


def test_a_row_that_cannot_be_read_stops_the_build_and_leaves_no_partial_files(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", 16)
    with corpus.open("a") as stream:
        stream.write('{"other": 1}\n')
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(corpus)])
    with pytest.raises(BadConfiguration, match=r"^spec\.data\.sources\[web\].*c\.jsonl") as error:
        ensure_caches(spec, process="p")
    assert "16" in str(error.value)
    assert files_below(tmp_path / "root" / "data" / "web").keys() == {"LEDGER.json"}


def test_a_source_with_only_empty_documents_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(
        BadConfiguration, match=r"^spec\.data\.sources\[web\]: all its documents are empty; give it some text$"
    ):
        ensure_caches(spec_of(f"file://{tmp_path}/root", [jsonl(tmp_path / "c.jsonl")]), process="p")
