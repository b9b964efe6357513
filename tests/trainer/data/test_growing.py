"""Batches from a growing token cache are bitwise those from the finished one; readers wait for missing text, and get
the build's error.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from halcyon.checkpoint.fingerprints import differences, fingerprints
from halcyon.commands.data import app
from halcyon.data.cache import build, ensure
from halcyon.data.cache.background import BackgroundCaches, CacheProgress, Stopped
from halcyon.data.cache.ensure import Caches, next_source
from halcyon.data.cache.ledger import Ledger
from halcyon.data.dataset import Dataset
from halcyon.data.open import background_caches, cache_keeper, cache_store, dataset_of, inspect_dataset, may_begin
from halcyon.data.source_data import BatchRows
from halcyon.data.sources import pieces
from halcyon.data.streaming import positive_weights, streams
from halcyon.host.errors import BadConfiguration, DamagedData
from halcyon_api.ends import ExitCode
from halcyon_api.spec.data import DataSpec
from halcyon_api.training_run import TrainingRunSpec
from tests.suite.limits import limit
from tests.trainer.data.cache.runs import files_below, jsonl, ledger_of, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches

ORDERS = ({"sequential": {}}, {"windows": {"sequences": 40}})
BATCH = 12
STEPS = 400
WEIGHTS = (("much", 10.0), ("little", 1.0), ("unmixed", 0.0))
NAMES = ("tokens", "targets", "weights", "segments")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few kilobytes, so that small caches have many shards."""
    monkeypatch.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=4096))
    monkeypatch.setattr(ensure, "_POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "web.jsonl", 1200)
    write_jsonl(folder / "books.jsonl", 500, seed=1)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=4096))
        ensure_caches(two_sources(folder / "root", folder, ORDERS[0]), process="first")
    return folder


def two_sources(root: Path, corpus: Path, order: dict[str, Any], **more: Any) -> TrainingRunSpec:
    sources = [jsonl(corpus / "web.jsonl", "web", weight=3), jsonl(corpus / "books.jsonl", "books", weight=1)]
    settings = {
        "data__order": order,
        "data__cache": {"shardTokens": 4096, "workers": 1},
        "data__validation": {"fraction": 0.05},
    }
    trainer = {"steps": STEPS, "batchSize": BATCH, "sequenceLength": 32, "evaluation": {"everySteps": 5, "batches": 2}}
    return spec_of(f"file://{root}", sources, trainer=trainer, **settings, **more)


def one_source(root: Path, path: Path, **cache: Any) -> TrainingRunSpec:
    settings = {"data__order": {"sequential": {}}, "data__cache": {"shardTokens": 4096, "workers": 1, **cache}}
    trainer = {"steps": 10_000, "batchSize": 4, "sequenceLength": 16}
    return spec_of(f"file://{root}", [jsonl(path)], trainer=trainer, **settings)


def grown(caches: Caches, **shards: int) -> Caches:
    """The caches as they were with this number of shards by source."""

    def at(ledger: Ledger, count: int) -> Ledger:
        return ledger.model_copy(update={"shards": ledger.shards[:count], "finished": count > len(ledger.shards)})

    return replace(caches, ledgers={name: at(caches.ledgers[name], count) for name, count in shards.items()})


def growing_dataset(spec: TrainingRunSpec, caches: Caches) -> tuple[CacheProgress, Dataset]:
    progress = CacheProgress()
    progress.update(caches)
    return progress, dataset_of(spec, cache_store(spec), caches, progress)


def same(one: Dataset, other: Dataset, rows: BatchRows) -> None:
    left, right = one.examples(rows), other.examples(rows)
    for name in NAMES:
        assert getattr(left, name).tobytes() == getattr(right, name).tobytes()


def spec_with(**data: Any) -> DataSpec:
    source = {"name": "web", "text": {"paths": ["/corpus"]}}
    return DataSpec.model_validate(
        {"sources": [source], "order": {"sequential": {}}, **data}, by_alias=True, by_name=False
    )


@pytest.mark.parametrize(
    ("data", "may"),
    [
        ({}, True),
        ({"order": {"windows": {}}}, True),
        ({"order": {"random": {}}}, False),
        ({"order": {"blocks": {}}}, False),
        ({"mixture": {"stop": "firstExhausted"}}, False),
        ({"mixture": {"simulateTokens": 1000}}, False),
        ({"sources": [{"name": "a", "text": {"paths": ["/a"]}, "layout": {"pack": {}}}]}, False),
        ({"sources": [{"name": name, "text": {"paths": ["/a"]}} for name in "ab"]}, False),
        ({"sources": [{"name": name, "text": {"paths": ["/a"]}, "weight": 1.0} for name in "ab"]}, True),
    ],
)
def test_only_runs_whose_batches_do_not_depend_on_later_text_may_stream(data: dict[str, Any], may: bool) -> None:
    assert streams(spec_with(**data)) is may


@pytest.mark.parametrize("order", ORDERS)
def test_a_growing_cache_gives_bitwise_the_batches_of_the_whole_one(corpus: Path, order: dict[str, Any]) -> None:
    spec = two_sources(corpus / "root", corpus, order)
    store, caches = ensure_caches(spec, process="p")
    whole = dataset_of(spec, store, caches)
    counts = {name: len(ledger.shards) for name, ledger in caches.ledgers.items()}
    assert counts["web"] >= 16
    assert counts["books"] >= 6
    begin = grown(caches, web=1, books=1)
    assert may_begin(spec, begin)
    progress, dataset = growing_dataset(spec, begin)
    assert dataset.fingerprint == whole.fingerprint
    held: list[int] = []
    for shards in range(1, counts["web"] + 2):
        progress.update(grown(caches, web=shards, books=min(shards, counts["books"] + 1)))
        held.append(next(step for step in range(10**6) if shards > counts["web"] or not dataset.holds(step)))
        for step in range(held[-2] if shards > 1 else 0, held[-1] if shards <= counts["web"] else STEPS):
            rows = dataset.train_rows(step)
            assert np.array_equal(rows.source, whole.train_rows(step).source)
            assert np.array_equal(rows.sequence, whole.train_rows(step).sequence)
        for hosts in (1, 2, 3):
            for host in range(hosts):
                mine = rows[np.array_split(np.arange(BATCH), hosts)[host]]
                assert len(mine) == BATCH // hosts
                same(dataset, whole, mine)
    assert len(held) == counts["web"] + 1
    assert held[:-1] == sorted(held[:-1])
    assert held[0] < held[-2]
    assert whole.mixture.epochs(whole.schedule.positions_before(STEPS)).max() > 1, (
        "more than one epoch must be compared"
    )
    for batch, expected in zip(dataset.validation_batches(2, BATCH), whole.validation_batches(2, BATCH), strict=True):
        assert np.array_equal(batch.sequence, expected.sequence)
        same(dataset, whole, batch)


def test_an_evaluation_takes_the_first_held_out_sequences_as_soon_as_they_exist(corpus: Path) -> None:
    spec = two_sources(corpus / "root", corpus, ORDERS[0])
    store, caches = ensure_caches(spec, process="p")
    whole = dataset_of(spec, store, caches)
    (expected,) = whole.validation_batches(1, 30)
    assert np.bincount(expected.source).tolist() == [23, 7], "three to one"
    for index, (source, count) in enumerate(zip(whole.sources, (23, 7), strict=True)):
        assert np.array_equal(
            expected.sequence[expected.source == index], source.split.validation_sequences(np.arange(count))
        )
    progress, dataset = growing_dataset(spec, grown(caches, web=1, books=1))
    assert not dataset.holds_validation(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dataset.validation_batches, 1, 30)
        for shards in range(2, 30):
            assert not waiting.done() or dataset.holds_validation(30)
            progress.update(grown(caches, web=shards, books=min(shards, len(caches.ledgers["books"].shards) + 1)))
        (found,) = waiting.result(limit(10))
    assert np.array_equal(found.sequence, expected.sequence)
    (all_there_is,) = whole.validation_batches(1, 10**6)
    assert len(all_there_is) == whole.validation_sequences, "a source with fewer sequences gives all of them"


def test_a_reader_that_is_too_early_waits_for_the_text(corpus: Path) -> None:
    spec = two_sources(corpus / "root", corpus, ORDERS[1])
    store, caches = ensure_caches(spec, process="p")
    whole = dataset_of(spec, store, caches)
    progress, dataset = growing_dataset(spec, grown(caches, web=1, books=1))
    step = next(step for step in range(1000) if not dataset.holds(step)) + 60
    asked = threading.Event()
    progress.wait_for = _noting(progress, asked)  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dataset.train_rows, step)
        assert asked.wait(limit(10))
        progress.update(grown(caches, web=2, books=1))
        assert not dataset.holds(step)
        assert not waiting.done()
        progress.update(grown(caches, web=100, books=100))
        assert np.array_equal(waiting.result(limit(10)).sequence, whole.train_rows(step).sequence)


def _noting(progress: CacheProgress, asked: threading.Event) -> Any:
    wait_for = progress.wait_for

    def noted(condition: Any, seconds: float | None = None) -> bool:
        asked.set()
        return wait_for(condition, seconds)

    return noted


@pytest.mark.parametrize("error", [BadConfiguration("spec.data.sources[web]: row 7 is bad"), Stopped()])
def test_a_waiting_reader_gets_the_error_of_the_build(corpus: Path, error: Exception) -> None:
    spec = two_sources(corpus / "root", corpus, ORDERS[0])
    caches = ensure_caches(spec, process="p")[1]
    progress, dataset = growing_dataset(spec, grown(caches, web=1, books=1))
    failures: list[Exception] = []
    progress.on_failure(failures.append)
    asked = threading.Event()
    progress.wait_for = _noting(progress, asked)  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dataset.train_rows, STEPS - 1)
        assert asked.wait(limit(10))
        progress.end(error)
        assert waiting.exception(limit(10)) is error
    assert failures == ([] if isinstance(error, Stopped) else [error])
    with pytest.raises(type(error)):
        progress.on_failure(failures.append)


def test_a_cache_that_is_rebuilt_while_a_run_reads_it_is_reported(corpus: Path) -> None:
    spec = two_sources(corpus / "root", corpus, ORDERS[0])
    caches = ensure_caches(spec, process="p")[1]
    progress, dataset = growing_dataset(spec, grown(caches, web=2, books=1))
    other = caches.ledgers["web"]
    shards = (other.shards[1], other.shards[0], *other.shards[2:4])
    progress.update(
        replace(
            caches, ledgers={**caches.ledgers, "web": other.model_copy(update={"shards": shards, "finished": False})}
        )
    )
    with pytest.raises(DamagedData, match=r"/web was rebuilt while a run read it"):
        dataset.train_rows(0)


def written(path: Path, spec: TrainingRunSpec) -> Path:
    document = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "r"},
        "spec": spec.document(),
    }
    path.write_text(yaml.safe_dump(document))
    return path


# The thread that builds the cache


class Gate:
    """Controls how many pieces a build may read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self.taken = 0
        small = ensure.pieces

        def gated(*arguments: Any, **options: Any) -> Iterator[Any]:
            for piece in small(*arguments, **options):
                with self._changed:
                    assert self._changed.wait_for(lambda: self.taken < self._open, limit(20))
                    self.taken += 1
                yield piece

        monkeypatch.setattr(ensure, "pieces", gated)

    def let(self, pieces: int) -> None:
        with self._changed:
            self._open += pieces
            self._changed.notify_all()


def shards_of(caches: BackgroundCaches, name: str = "web") -> int:
    latest = caches.progress.latest
    ledger = None if latest is None else latest.ledgers.get(name)
    return 0 if ledger is None else len(ledger.shards)


def in_background(spec: TrainingRunSpec, process: str) -> BackgroundCaches:
    return background_caches(spec, lambda: cache_keeper(spec, process=process, run="tests/run"))


def test_a_run_begins_with_the_first_shard_and_the_cache_ends_as_any_other(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one_source(tmp_path / "root", corpus / "web.jsonl")
    gate = Gate(monkeypatch)
    caches = in_background(spec, "one")
    assert not caches.progress.wait_for(lambda: shards_of(caches) > 0, 0)
    gate.let(4)
    assert caches.progress.wait_for(
        lambda: caches.progress.latest is not None and may_begin(spec, caches.progress.latest), limit(20)
    )
    dataset = dataset_of(spec, cache_store(spec), caches.progress.caches, caches.progress)
    assert not ledger_of(spec.checkpoint.root).finished
    first = dataset.examples(dataset.train_rows(0))
    gate.let(1000)
    assert caches.progress.wait_for(lambda: caches.progress.caches.finished(spec.data), limit(20))
    caches.close()
    monkeypatch.setattr(ensure, "pieces", functools.partial(pieces, target_bytes=4096))
    elsewhere = one_source(tmp_path / "elsewhere", corpus / "web.jsonl")
    store, whole = ensure_caches(elsewhere, process="p")
    assert files_below(tmp_path / "elsewhere" / "data") == files_below(tmp_path / "root" / "data")
    expected = dataset_of(elsewhere, store, whole)
    assert first.tokens.tobytes() == expected.examples(expected.train_rows(0)).tokens.tobytes()


def test_all_sources_have_a_shard_before_any_has_two(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = two_sources(tmp_path, corpus, ORDERS[0])
    seen: list[tuple[int, int]] = []
    tell = CacheProgress.update

    def noted(self: CacheProgress, now: Caches) -> None:
        seen.append(tuple(len(now.ledgers[name].shards) if name in now.ledgers else 0 for name in ("web", "books")))  # type: ignore[arg-type]
        tell(self, now)

    monkeypatch.setattr(CacheProgress, "update", noted)
    caches = in_background(spec, "one")
    assert caches.progress.wait_for(
        lambda: caches.progress.latest is not None and caches.progress.caches.finished(spec.data), limit(20)
    )
    caches.close()
    whole = {name: len(ledger.shards) for name, ledger in caches.progress.caches.ledgers.items()}
    together = [(web, books) for web, books in seen if web and books < whole["books"] and web < whole["web"]]
    assert len(together) > 8
    assert all(books or web == 1 for web, books in together)
    assert all(abs(web - 3 * books) <= 3 for web, books in together), "the sources grow by their weights, 3 to 1"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"much": 0, "little": 0}, "much"),
        ({"much": 100, "little": 0}, "little"),
        (
            {"much": 100, "little": 60},
            "little",
        ),  # less than a portion, so it cannot be used yet, however little is needed
        ({"much": 100, "little": 100}, "much"),
        ({"much": 900, "little": 100}, "much"),
        ({"much": 1000, "little": 100}, "much"),
        ({"much": 1001, "little": 100}, "little"),
        ({"much": 1100, "little": 100}, "little"),
        ({"much": 0, "little": 0, "unmixed": 0}, "much"),
        ({"much": 2000, "little": 200, "unmixed": 100}, "unmixed"),
    ],
)
def test_the_source_that_is_used_up_first_is_built_next(tokens: dict[str, int], expected: str) -> None:
    weights = positive_weights(
        spec_with(sources=[{"name": name, "text": {"paths": ["/a"]}, "weight": weight} for name, weight in WEIGHTS])
    )
    assert next_source(tokens, weights, {"much": 100, "little": 100, "unmixed": 100}) == expected


def test_a_build_that_is_stopped_keeps_its_shards_and_gives_the_lock_back(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one_source(tmp_path, corpus / "web.jsonl")
    gate = Gate(monkeypatch)
    first = in_background(spec, "one")
    gate.let(7)
    assert first.progress.wait_for(lambda: shards_of(first) >= 2, limit(20))
    first.stop()
    gate.let(1)
    first.close(limit(20))
    assert not first._thread.is_alive()
    committed = ledger_of(spec.checkpoint.root)
    assert len(committed.shards) >= 2
    assert not committed.finished
    gate.let(1000)
    after = ensure_caches(spec, process="two")[1].ledgers["web"]
    assert after.finished
    assert after.shards[: len(committed.shards)] == committed.shards


def test_a_failed_build_ends_the_wait_in_every_process_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", 400)
    with path.open("a") as stream:
        stream.write('{"other": 1}\n')
    spec = one_source(tmp_path / "root", path)
    gate = Gate(monkeypatch)
    builder = in_background(spec, "one")
    gate.let(4)
    assert builder.progress.wait_for(lambda: shards_of(builder) > 0, limit(20))
    follower = in_background(spec, "two")
    stranger = background_caches(spec, lambda: cache_keeper(spec, process="three", run="tests/another"))
    for caches in (follower, stranger):
        assert caches.progress.wait_for(lambda caches=caches: shards_of(caches) > 0, limit(20))
    failures: dict[str, Exception] = {}
    here = threading.Barrier(3)

    def note(name: str, error: Exception) -> None:
        failures[name] = error
        here.wait(limit(20))

    for name, caches in (("builder", builder), ("follower", follower)):
        caches.progress.on_failure(functools.partial(note, name))
    dataset = dataset_of(spec, cache_store(spec), follower.progress.caches, follower.progress)
    gate.let(100)
    with pytest.raises(BadConfiguration) as error:
        dataset.train_rows(10**6)
    here.wait(limit(20))
    assert {str(one) for one in failures.values()} == {str(error.value)}
    assert "row 400" in str(error.value)
    assert not ledger_of(spec.checkpoint.root).finished
    with pytest.raises(BadConfiguration, match="row 400"):  # it takes over the build and finds the bad row itself
        stranger.progress.wait_for(lambda: False, limit(20))
    for caches in (builder, follower, stranger):
        caches.close()
    with pytest.raises(BadConfiguration, match="row 400"):  # a later start finds the lock free and retries
        ensure_caches(spec, process="four", run="tests/run")


def test_data_can_be_inspected_while_its_cache_is_built(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one_source(tmp_path, corpus / "web.jsonl")
    gate = Gate(monkeypatch)
    caches = in_background(spec, "one")
    gate.let(4)
    assert caches.progress.wait_for(
        lambda: caches.progress.latest is not None and may_begin(spec, caches.progress.latest), limit(20)
    )
    dataset, found = inspect_dataset(spec, process="looking")
    assert not found.ledgers["web"].finished
    assert sum(source.used for source in dataset.sources) > 0
    assert len(dataset.train_rows(0)) == 4
    sentence = (
        r"^spec\.data\.sources\[web\]: its token cache is not complete: it has the first \d+ sequences .* choose an "
        r"earlier step"
    )
    with pytest.raises(BadConfiguration, match=sentence):
        dataset.train_rows(10**5)
    result = CliRunner().invoke(app, ["stats", str(written(tmp_path / "run.yaml", spec))])
    assert result.exit_code == 0
    assert "web: its token cache is not complete yet; all numbers are of its first" in result.output
    result = CliRunner().invoke(app, ["show", str(tmp_path / "run.yaml"), "--step", "10000"])
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    caches.stop()
    gate.let(1)
    caches.close(limit(20))


def test_growth_changes_no_fingerprint_and_other_text_does(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes((corpus / "web.jsonl").read_bytes())
    spec = one_source(tmp_path / "root", path)
    store, caches = ensure_caches(spec, process="p")
    whole = dataset_of(spec, store, caches)
    assert growing_dataset(spec, grown(caches, web=1))[1].description == whole.description
    text = path.read_text()
    path.write_text(text[:-40] + text[-40:].replace("w", "v"))
    elsewhere = one_source(tmp_path / "elsewhere", path)
    other = dataset_of(elsewhere, *ensure_caches(elsewhere, process="p"))
    now, then = (fingerprints(spec, data=dataset.description) for dataset in (other, whole))
    (clause,) = differences(now, then)
    assert clause.startswith("data.sources.web.filesSha256 is "), "also if only the end differs"


def test_small_sources_are_built_without_worker_processes(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (corpus / "web.jsonl").stat().st_size < build.SMALL_BYTES
    monkeypatch.setattr("halcyon.data.cache.pool.ProcessPoolExecutor", None)
    spec = one_source(tmp_path, corpus / "web.jsonl", workers=3)
    caches = in_background(spec, "one")
    assert caches.progress.wait_for(
        lambda: caches.progress.latest is not None and caches.progress.caches.finished(spec.data), limit(20)
    )
    caches.close()
