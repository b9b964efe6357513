"""One process of many builds the cache; a builder that falls silent is replaced."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from halcyon.data.cache import ensure
from halcyon.data.cache.build import SourceBuild
from halcyon.data.cache.election import LOCK_TIMEOUT_SECONDS, Builder
from halcyon.host.errors import BadConfiguration, DamagedData
from halcyon.host.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from tests.suite.limits import limit
from tests.trainer.data.cache.runs import jsonl, spec_of, write_jsonl
from tests.trainer.support.datasets import ensure_caches


def store(tmp_path: Path) -> Store:
    return Store(CheckpointSpec(root=f"file://{tmp_path}/caches"))


def test_the_first_process_builds_and_the_next_one_after_it(tmp_path: Path) -> None:
    one, two = Builder(store(tmp_path), "one"), Builder(store(tmp_path), "two")
    assert one.try_elect()
    assert not two.try_elect()
    with one:
        assert not two.try_elect()
    assert two.try_elect()


def test_a_silent_builder_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    now = [0.0]
    dead, other = Builder(store(tmp_path), "dead"), Builder(store(tmp_path), "other", clock=lambda: now[0])
    assert dead.try_elect()
    assert not other.try_elect()
    now[0] = LOCK_TIMEOUT_SECONDS - 1
    assert not other.try_elect()
    assert dead._generation is not None
    dead._generation = dead.store.swap("BUILDER.json", dead._document(), dead._generation)  # one more heartbeat
    now[0] = LOCK_TIMEOUT_SECONDS + 1
    assert not other.try_elect(), "it spoke meanwhile"
    now[0] = 2 * LOCK_TIMEOUT_SECONDS + 2
    assert other.try_elect()


def test_the_error_of_a_failed_builder_reaches_only_the_waiting_processes_of_its_run(tmp_path: Path) -> None:
    """Processes of the same run would find the same bad row, after reading as long.

    Another run, or a later start, may succeed.
    """
    one, two, stranger = (
        Builder(store(tmp_path), name, run=run) for name, run in (("one", "a"), ("two", "a"), ("three", "b"))
    )
    assert one.try_elect()
    assert not two.try_elect()
    assert not stranger.try_elect()
    with pytest.raises(DamagedData), one:
        raise DamagedData("spec.data.sources[web]: row 7 is bad")
    with pytest.raises(DamagedData, match=r"^spec\.data\.sources\[web\]: row 7 is bad$"):
        two.try_elect()
    assert Builder(store(tmp_path), "later", run="a").try_elect()


def test_an_unexpected_error_of_a_builder_lets_another_process_build(tmp_path: Path) -> None:
    one, two = Builder(store(tmp_path), "one", run="a"), Builder(store(tmp_path), "two", run="a")
    assert one.try_elect()
    assert not two.try_elect()
    with pytest.raises(RuntimeError), one:
        raise RuntimeError
    assert two.try_elect()


def test_another_run_takes_over_from_a_builder_that_failed(tmp_path: Path) -> None:
    one, stranger = Builder(store(tmp_path), "one", run="a"), Builder(store(tmp_path), "two", run="b")
    assert one.try_elect()
    assert not stranger.try_elect()
    with pytest.raises(BadConfiguration), one:
        raise BadConfiguration("bad")
    assert stranger.try_elect()


def test_many_processes_at_once_build_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    run = SourceBuild.run

    def noted(self: SourceBuild, *arguments: object, **options: object) -> object:
        built.append(self.name)
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SourceBuild, "run", noted)
    monkeypatch.setattr(ensure, "_POLL_SECONDS", 0.01)
    spec = spec_of(f"file://{tmp_path}/root", [jsonl(write_jsonl(tmp_path / "c.jsonl", 2000))])
    found: list[str] = []

    def host(number: int) -> None:
        _, caches = ensure_caches(spec, process=f"host {number}")
        found.append(caches.ledgers["web"].content_sha256)

    threads = [threading.Thread(target=host, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit(60))
    assert built == ["web"]
    assert len(found) == 6
    assert len(set(found)) == 1
