"""Sources that do not answer while token caches are built: requests are retried, and the caches equal those of an
undisturbed build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halcyon.data.cache.background import BackgroundCaches
from halcyon.data.cache.election import Builder
from halcyon.data.cache.retries import SourceRetries
from halcyon.data.open import background_caches, cache_keeper
from halcyon.data.sources import Access
from halcyon.host.errors import BadConfiguration, DataUnreachable, Preempted, RootUnusable, TrainerExit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.retry_budget import SOURCES, RetryBudget
from halcyon.host.storage.store import Store
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.training_run import TrainingRunSpec
from tests.faults.proxy import PASS, Fault, Proxy, Request, Status
from tests.suite.limits import limit
from tests.trainer.checkpoint.roots import gateway, proxy
from tests.trainer.data.cache.runs import files_below, spec_of, write_jsonl
from tests.trainer.data.sources.conftest import Bucket, bucket
from tests.trainer.run.test_access_retries import RecordedWaits, shorten_delays
from tests.trainer.support.datasets import ensure_caches
from tests.variants import few_of

__all__ = ["bucket", "gateway", "proxy"]

DENIED = Status(403, "AccessDenied")
FILES = ("a.jsonl", "b.jsonl", "c.jsonl")


@pytest.fixture
def spec(bucket: Bucket, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRunSpec:
    """A run with three files behind the proxy, and shards of one piece each."""
    for number, name in enumerate(FILES):
        write_jsonl(bucket.folder / name, 200, seed=number)
    access = Access(endpoint=proxy.endpoint, pause_seconds=0.0, max_retries=0, retry_seconds=5.0)
    monkeypatch.setattr(Access, "of", lambda checkpoint: access)
    shorten_delays(monkeypatch)
    sources = [{"name": "web", "jsonl": {"paths": [f"{bucket.uri}/{name}" for name in FILES]}}]
    return spec_of(f"file://{tmp_path}/root", sources, data__cache={"shardTokens": 1024})


def times(
    number: int, concerns: Callable[[Request], bool] = lambda request: True, fault: Fault = DENIED
) -> Callable[[Request], Fault]:
    """The fault for the first `number` requests that it concerns."""
    lock, left = threading.Lock(), [number]

    def decide(request: Request) -> Fault:
        with lock:
            if not concerns(request) or not left[0]:
                return PASS
            left[0] -= 1
            return fault

    return decide


def undisturbed(spec: TrainingRunSpec, tmp_path: Path) -> dict[str, bytes]:
    checkpoint = spec.checkpoint.model_copy(update={"root": f"file://{tmp_path}/undisturbed"})
    ensure_caches(spec.model_copy(update={"checkpoint": checkpoint}), process="undisturbed")
    return files_below(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "concerns",
    [
        pytest.param(lambda request: True, id="the listing"),
        pytest.param(lambda request: request.method == "GET", id="the first file", marks=pytest.mark.variant),
        pytest.param(lambda request: request.method == "GET" and request.key == "c.jsonl", id="the last file"),
    ],
)
def test_sources_that_deny_access_for_a_while_are_retried(
    spec: TrainingRunSpec, proxy: Proxy, tmp_path: Path, concerns: Callable[[Request], bool]
) -> None:
    recorded = RecordedWaits()
    proxy.decide = times(2, concerns)
    ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(limit(60)))
    assert (recorded.waits[0][0], recorded.waits[0][2]) == (SOURCES, limit(60))
    assert "access is denied (HTTP status 403" in recorded.waits[0][1]
    assert recorded.ends == [True] * len(recorded.waits)
    assert files_below(tmp_path / "root") == undisturbed(spec, tmp_path)


def test_sources_that_keep_denying_access_end_the_process_with_their_answer(
    spec: TrainingRunSpec, proxy: Proxy
) -> None:
    recorded = RecordedWaits()
    proxy.decide = lambda request: DENIED
    with pytest.raises(
        DataUnreachable, match=r"^spec\.data\.sources\[web\]\.jsonl\.paths\[0\]: s3://.*/a\.jsonl .*HTTP status 403"
    ):
        ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(0.15))
    assert recorded.ends == [False]


def test_reading_earlier_files_again_does_not_extend_the_time_limit(spec: TrainingRunSpec, proxy: Proxy) -> None:
    """Each retry reads again up to the last file, or continues after the last commit: neither may restart the time
    limit endlessly.
    """
    recorded = RecordedWaits()
    proxy.decide = lambda request: DENIED if request.method == "GET" and request.key == "c.jsonl" else PASS
    with pytest.raises(DataUnreachable, match=r"c\.jsonl"):
        ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(0.3))


def test_a_missing_file_is_not_waited_for(spec: TrainingRunSpec, bucket: Bucket) -> None:
    recorded = RecordedWaits()
    (bucket.folder / "b.jsonl").unlink()
    with pytest.raises(BadConfiguration, match="no file matches"):
        ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(1e6))
    assert recorded.waits == []


def test_without_a_retry_budget_an_outage_is_reported_at_once(spec: TrainingRunSpec, proxy: Proxy) -> None:
    proxy.decide = lambda request: DENIED
    with pytest.raises(DataUnreachable):
        ensure_caches(spec, process="first")


def test_the_file_of_a_tokenizer_is_retried_too(spec: TrainingRunSpec, proxy: Proxy, bucket: Bucket) -> None:
    recorded = RecordedWaits()
    proxy.decide = times(1, lambda request: request.key.endswith("tokenizer.json"))
    named = spec.model_validate(
        spec.document() | {"tokenizer": {"tokenizerJson": {"path": f"{bucket.uri}/tokenizer.json"}}}
    )
    with pytest.raises(BadConfiguration, match=r"tokenizer\.json"):  # the store answers, but the file does not exist
        ensure_caches(named, process="first", retry_budget=recorded.retry_budget(limit(60)))
    assert recorded.waits


def test_a_notice_ends_the_wait(spec: TrainingRunSpec, proxy: Proxy) -> None:
    retry_budget = RetryBudget(1e6, on_wait=lambda *_: retry_budget.stop())
    proxy.decide = lambda request: DENIED
    with pytest.raises(Preempted, match="a preemption notice arrived while a data source was unreachable"):
        ensure_caches(spec, process="first", retry_budget=retry_budget)


def test_a_notice_that_ends_a_wait_beside_the_training_is_no_failure(spec: TrainingRunSpec, proxy: Proxy) -> None:
    """The training must first save its last step."""
    retry_budget = RetryBudget(1e6, on_wait=lambda *_: retry_budget.stop())
    proxy.decide = lambda request: DENIED
    caches: BackgroundCaches = background_caches(
        spec, lambda: cache_keeper(spec, process="first", retry_budget=retry_budget)
    )
    failures: list[Exception] = []
    caches.progress.on_failure(failures.append)
    caches._thread.join(limit(30))
    assert not caches._thread.is_alive()
    caches.close()
    assert failures == []


def test_processes_that_wait_for_a_failed_builder_fail_with_its_error(spec: TrainingRunSpec, proxy: Proxy) -> None:
    store = Store(CheckpointSpec(root=f"{spec.checkpoint.root}/data"))
    first, second = Builder(store, "first", run="r"), Builder(store, "second", run="r")
    assert first.try_elect()
    assert not second.try_elect()
    with pytest.raises(DataUnreachable), first:
        raise DataUnreachable("s3://bucket/a cannot be read: HTTP status 503")
    with pytest.raises(DataUnreachable, match="HTTP status 503"):
        second.try_elect()


def failing_store(monkeypatch: pytest.MonkeyPatch, failure: StoreFailure, number: int) -> list[str]:
    """Make the first `number` reads of the store fail; returns the list of their keys."""
    asked: list[str] = []
    read = Store.read

    def fail(self: Store, key: str, *arguments: Any, **options: Any) -> Any:
        if len(asked) < number:
            asked.append(key)
            raise failure
        return read(self, key, *arguments, **options)

    monkeypatch.setattr(Store, "read", fail)
    return asked


@pytest.mark.parametrize("code", few_of(["UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN"], ["UNAVAILABLE"]))
def test_token_caches_on_an_unreachable_store_are_retried(
    spec: TrainingRunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    expected, recorded = undisturbed(spec, tmp_path), RecordedWaits()
    asked = failing_store(monkeypatch, StoreFailure(code, "nobody answers"), 1)
    ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(limit(60)))
    assert (len(asked), recorded.ends) == (1, [True])
    assert recorded.waits[0][1].startswith(
        f"spec.data.cache.root: the token cache {spec.checkpoint.root}/data could not be reached; "
    )
    assert files_below(tmp_path / "root") == expected


def test_token_caches_on_a_store_that_stays_unreachable_end_with_data_unreachable(
    spec: TrainingRunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator then retries with growing pauses, and never counts a crash."""
    failing_store(monkeypatch, StoreFailure("UNAVAILABLE", "nobody answers"), 1000)
    with pytest.raises(DataUnreachable, match=r"^spec\.data\.cache\.root: the token cache .* could not be reached"):
        ensure_caches(spec, process="first", retry_budget=RecordedWaits().retry_budget(0.15))


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [("NOT_FOUND", "no bucket", RootUnusable), ("RESOURCE_EXHAUSTED", "No space left", TrainerExit)],
)
def test_permanent_failures_of_the_store_of_token_caches_are_not_retried(
    spec: TrainingRunSpec, monkeypatch: pytest.MonkeyPatch, code: str, text: str, kind: type[TrainerExit]
) -> None:
    recorded = RecordedWaits()
    failing_store(monkeypatch, StoreFailure(code, text), 1000)
    with pytest.raises(kind) as caught:
        ensure_caches(spec, process="first", retry_budget=recorded.retry_budget(1e6))
    assert (type(caught.value), recorded.waits) == (kind, [])


class Clock:
    """A fake clock of a retry_budget: its waits take no time."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.recorded = RecordedWaits()
        self.retry_budget = self.recorded.retry_budget(seconds, clock=lambda: self.now)
        self.retry_budget._over.wait = self._wait  # type: ignore[method-assign]

    def _wait(self, seconds: float | None = None) -> bool:
        self.now += seconds or 0.0
        return False


def failing(number: int, between: Callable[[], Any]) -> Callable[[], str]:
    left = [number]

    def attempt() -> str:
        between()
        if left[0]:
            left[0] -= 1
            raise DataUnreachable("refused")
        return "read"

    return attempt


def test_reading_again_does_not_restart_the_time_limit() -> None:
    clock = Clock(100)
    asking = SourceRetries(clock.retry_budget, lambda: None)
    with pytest.raises(DataUnreachable):
        asking.retry(failing(1000, asking.source_answered))
    assert clock.now == pytest.approx(100)
    assert all(longest <= 100 for _, _, longest in clock.recorded.waits)
    assert len(clock.recorded.ends) == len(clock.recorded.waits)


def test_a_commit_restarts_the_time_limit() -> None:
    clock = Clock(100)
    asking = SourceRetries(clock.retry_budget, lambda: None)
    assert asking.retry(failing(1000, asking.reset_deadline)) == "read"
    assert clock.now == pytest.approx(1000), "the time limit restarted before each wait"
