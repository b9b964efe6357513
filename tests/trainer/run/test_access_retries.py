"""A store that refuses the credentials for a while: the run retries with a growing delay, until the configured
limit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halcyon.host.errors import Preempted, RootUnusable
from halcyon.host.storage.failures import STOPPED, StoreFailure
from halcyon.host.storage.metadata_server import server_address, wait_for_server
from halcyon.host.storage.retry_budget import RetryBudget, WaitStopped, delay_seconds
from halcyon.host.storage.store import Store
from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.proxy import PASS, Fault, Proxy, Request, Status
from tests.faults.table import Trials
from tests.suite.limits import limit
from tests.trainer.checkpoint.helpers import Root, open_root
from tests.trainer.checkpoint.roots import gateway, proxy, root_behind, s3_root
from tests.trainer.support.process_groups import run_document, start_processes
from tests.web import Handler, serving

__all__ = ["gateway", "proxy", "root_behind", "s3_root"]

DENIED = Status(403, "AccessDenied")
REFUSALS = {
    "401": Status(401, "Unauthorized"),
    "403": DENIED,
    "expired": Status(400, "ExpiredToken"),
    "unknown key": Status(403, "InvalidAccessKeyId"),
}


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delays in this process to a tenth. Another test checks how they grow."""
    shorten_delays(monkeypatch)


def shorten_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delays to a tenth; the last try stays at the end of the time."""
    monkeypatch.setattr(
        "halcyon.host.storage.retry_budget.delay_seconds", lambda tries, left: delay_seconds(tries, 10 * left) / 10
    )


class RecordedWaits:
    """Records the callbacks of a retry_budget."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, str, float]] = []
        self.ends: list[bool] = []

    def retry_budget(self, seconds: float, **changes: Any) -> RetryBudget:
        return RetryBudget(
            seconds,
            on_wait=lambda root, failure, longest: self.waits.append((root, str(failure), longest)),
            on_end=lambda _, answers: self.ends.append(answers),
            **changes,
        )


def first(
    number: int, fault: Fault, concerns: Callable[[Request], bool] = lambda request: True
) -> Callable[[Request], Fault]:
    """The fault for the first `number` requests that it concerns."""
    seen = 0

    def decide(request: Request) -> Fault:
        nonlocal seen
        if not concerns(request) or seen == number:
            return PASS
        seen += 1
        return fault

    return decide


@pytest.mark.parametrize(
    ("tries", "left", "seconds"),
    [
        (1, 300, 1),
        (2, 300, 2),
        (3, 300, 4),
        (4, 300, 8),
        (5, 300, 15),
        (6, 300, 15),
        (10_000, 300, 15),
        (5, 3, 3),
        (1, 0, 0),
        (1, -1, 0),
    ],
)
def test_the_delay_grows_up_to_a_bound_and_ends_with_the_retry_budget(tries: int, left: float, seconds: float) -> None:
    assert delay_seconds(tries, left) == seconds


def test_the_retry_budget_is_shared_by_all_stores() -> None:
    retry_budget = RecordedWaits().retry_budget(10, clock=lambda: 11.0)
    refusal = ValueError("refused")
    with pytest.raises(ValueError, match="refused"):
        retry_budget.wait("one", refusal, 3, 0.0)
    with pytest.raises(ValueError, match="refused"):
        retry_budget.wait("another", refusal, 1, None)


def test_a_process_that_must_end_does_not_wait() -> None:
    retry_budget = RecordedWaits().retry_budget(1e6)
    retry_budget.stop()
    with pytest.raises(WaitStopped):
        retry_budget.wait("root", ValueError("refused"), 1, None)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_store_that_refuses_for_a_moment_is_retried(root_behind: Root, proxy: Proxy, refusal: str) -> None:
    recorded = RecordedWaits()
    proxy.decide = first(2, REFUSALS[refusal])
    assert Store(root_behind.spec, retry_budget=recorded.retry_budget(limit(60))).read("HEAD").data is None
    ((root, reason, longest),) = recorded.waits
    assert (root, recorded.ends) == (root_behind.spec.root, [True])
    assert longest == limit(60)
    assert REFUSALS[refusal].name in reason


@pytest.mark.slow  # TensorStore itself retries this error for 30 s
@pytest.mark.variant
def test_a_request_is_retried_until_the_clock_is_corrected(root_behind: Root, proxy: Proxy) -> None:
    proxy.decide = first(14, Status(403, "RequestTimeTooSkewed"))
    assert Store(root_behind.spec, retry_budget=RecordedWaits().retry_budget(limit(60))).read("HEAD").data is None


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_credentials_are_read_again_for_each_try(s3_root: Root, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    right = os.environ[variable]
    monkeypatch.setenv(variable, "mistaken")
    retry_budget = RetryBudget(limit(60), on_wait=lambda *_: os.environ.update({variable: right}))
    assert Store(s3_root.spec, retry_budget=retry_budget).read("HEAD").data is None


def test_concurrent_requests_share_one_wait(root_behind: Root, proxy: Proxy) -> None:
    store = Store(root_behind.spec)
    for number in range(20):
        store.write(f"one-{number:02}", b"x" * 10)
    recorded = RecordedWaits()
    proxy.decide = first(21, DENIED)
    patient = Store(root_behind.spec, retry_budget=recorded.retry_budget(limit(60)))
    assert patient.read_ranges([(f"one-{number:02}", 0, 10) for number in range(20)]) == [b"x" * 10] * 20
    assert len(recorded.waits) == 1


@pytest.mark.parametrize(
    "fault", [Status(404, "NoSuchBucket"), Status(400, "EntityTooLarge")], ids=["no bucket", "too large"]
)
def test_failures_that_no_wait_can_fix_are_reported_at_once(root_behind: Root, proxy: Proxy, fault: Status) -> None:
    recorded = RecordedWaits()
    proxy.decide = lambda request: fault
    with pytest.raises(StoreFailure):
        Store(root_behind.spec, retry_budget=recorded.retry_budget(1e6)).write("key", b"")
    assert recorded.waits == []


def test_a_folder_is_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = Root(behind_a_file(tmp_path), tmp_path)
    with pytest.raises(RootUnusable):
        open_root(root, retry_budget=RecordedWaits().retry_budget(1e6))


def behind_a_file(folder: Path) -> Any:
    from halcyon_api.spec.checkpoint import CheckpointSpec

    return CheckpointSpec(root=f"file://{folder}/file/root")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_root_is_opened_when_the_store_accepts_the_credentials(root_behind: Root, proxy: Proxy, method: str) -> None:
    recorded = RecordedWaits()
    proxy.decide = first(2, DENIED, lambda request: request.method == method)
    with open_root(root_behind, retry_budget=recorded.retry_budget(limit(60))):
        assert root_behind.head["epoch"]["attempt"] == 1
    assert len(recorded.waits) >= 1


def test_a_root_that_stays_refused_is_unusable(root_behind: Root, proxy: Proxy) -> None:
    recorded = RecordedWaits()
    proxy.decide = lambda request: DENIED
    with pytest.raises(RootUnusable, match="refuses access; give the run's credentials the right to list"):
        open_root(root_behind, retry_budget=recorded.retry_budget(0.15))
    assert recorded.ends == [False]


def test_a_notice_ends_the_wait_for_a_root(root_behind: Root, proxy: Proxy) -> None:
    retry_budget = RetryBudget(1e6, on_wait=lambda *_: retry_budget.stop())
    proxy.decide = lambda request: DENIED
    with pytest.raises(
        Preempted, match=r"^a notice of preemption came while the checkpoint root s3://.* refused access; "
    ):
        open_root(root_behind, retry_budget=retry_budget)


def test_a_save_that_is_refused_is_reported_and_not_waited_for(root_behind: Root, proxy: Proxy) -> None:
    recorded = RecordedWaits()
    with open_root(root_behind, retry_budget=recorded.retry_budget(1e6)) as checkpointer:
        checkpointer.opened()
        proxy.decide = lambda request: DENIED
        with pytest.raises(StoreFailure) as caught:
            checkpointer._store.write("key", b"")
    assert (recorded.waits, caught.value.code == STOPPED) == ([], False)


# Whole processes


def document(tmp_path: Path, root: Root, **checkpoint: Any) -> dict[str, Any]:
    run = run_document(tmp_path / "root", slices=1, steps=4)
    run["spec"]["checkpoint"] = {
        "root": root.spec.root,
        "endpoint": root.spec.endpoint,
        "save": {"everySteps": 2},
        **checkpoint,
    }
    return run


def refused(events: list[dict[str, Any]]) -> list[str]:
    return [
        event["message"] for event in events if event.get("event") == "warning" and "refuses access" in event["message"]
    ]


@pytest.mark.slow
@rows.CREDENTIALS
@pytest.mark.parametrize("slices", [1, pytest.param(2, marks=pytest.mark.variant)])
def test_a_training_waits_until_its_credentials_are_accepted(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials, slices: int
) -> None:
    """The store refuses the first requests of the token caches and of the root.

    The run then trains as if nothing had happened.
    """
    proxy.decide = lambda request: DENIED
    run = document(tmp_path, root_behind)
    run["spec"]["accelerator"]["slices"] = slices
    group = start_processes(run, tmp_path / "run")
    try:
        group.leader.wait_for(lambda events: bool(refused(events)))
        proxy.decide = first(3, REFUSALS["expired"], lambda request: "/data/" not in request.key)
        assert group.wait() == [ExitCode.DONE] * slices, group.leader.output_tail()
    finally:
        group.reap()
    assert max(group.leader.losses()) == 4
    (sentence, *_) = refused(group.leader.events)
    assert "the process tries again, with credentials read again, until 20" in sentence
    assert "Ctrl-C" not in sentence
    assert any("the store answers again" in event.get("message", "") for event in group.leader.events)
    trials.count("starts while the store refused the credentials")


@pytest.mark.slow
@rows.CREDENTIALS
def test_a_training_whose_credentials_stay_rejected_exits_with_85(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials
) -> None:
    proxy.decide = lambda request: DENIED
    group = start_processes(document(tmp_path, root_behind, accessRetrySeconds=2), tmp_path / "run")
    try:
        assert group.wait() == [ExitCode.ROOT_UNUSABLE], group.leader.output_tail()
    finally:
        group.reap()
    assert group.leader.report()["cause"] == "rootUnusable"
    trials.count("starts that gave up after `accessRetrySeconds`")


@pytest.mark.slow
@rows.CREDENTIALS
@pytest.mark.parametrize("slices", [1, pytest.param(2, marks=pytest.mark.variant)])
@pytest.mark.parametrize("where", ["token caches", "root"])
def test_a_notice_ends_the_wait_at_once_and_counts_no_failure(
    tmp_path: Path, root_behind: Root, proxy: Proxy, trials: Trials, where: str, slices: int
) -> None:
    proxy.decide = lambda request: DENIED if where == "token caches" or "/data/" not in f"/{request.key}" else PASS
    run = document(tmp_path, root_behind)
    run["spec"]["accelerator"]["slices"] = slices
    group = start_processes(run, tmp_path / "run", grace_seconds=limit(30))
    try:
        for process in group.processes:
            process.wait_for(lambda events: bool(refused(events)))
        for index in range(slices) if where == "token caches" else [slices - 1]:  # joined processes share a notice
            group.signal(signal.SIGTERM, index)
        assert group.wait() == [ExitCode.PREEMPTED] * slices, group.leader.output_tail()
    finally:
        group.reap()
    assert group.leader.report()["cause"] == "preempted"
    trials.count("notices while the store refused the credentials")


@pytest.mark.slow
@rows.CREDENTIALS
@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.variant), 1])
def test_one_process_whose_credentials_are_wrong_exits_with_85_and_the_others_report_its_loss(
    tmp_path: Path, s3_root: Root, trials: Trials, index: int
) -> None:
    run = document(tmp_path, s3_root, accessRetrySeconds=2)
    run["spec"]["accelerator"]["slices"] = 2
    right = f"AWS_SECRET_ACCESS_KEY={os.environ['AWS_SECRET_ACCESS_KEY']}"
    variables = ["AWS_SECRET_ACCESS_KEY=wrong" if process == index else right for process in range(2)]
    group = start_processes(run, tmp_path / "run", inside=[["env", variable] for variable in variables])
    try:
        codes = group.wait()
    finally:
        group.reap()
    assert codes[index] == ExitCode.ROOT_UNUSABLE, group.processes[index].output_tail()
    assert codes[1 - index] == ExitCode.FAILURE, group.processes[1 - index].output_tail()
    assert group.processes[index].report()["cause"] == "rootUnusable"
    assert group.processes[1 - index].report().get("peerLost") == index, group.processes[1 - index].output_tail()
    trials.count("starts of which one process had wrong credentials")


# The metadata server of Google Cloud


@pytest.mark.parametrize(
    ("root", "environ", "address"),
    [
        ("s3://bucket/run", {}, None),
        ("file:///run", {}, None),
        ("gs://bucket/run", {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, None),
        (
            "gs://bucket/run",
            {"HOME": "/nowhere"},
            "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/email",
        ),
        (
            "gs://bucket/run",
            {"HOME": "/nowhere", "GCE_METADATA_ROOT": "127.0.0.1:80"},
            "http://127.0.0.1:80/computeMetadata/v1/instance/service-accounts/default/email",
        ),
    ],
)
def test_which_roots_need_the_metadata_server(root: str, environ: dict[str, str], address: str | None) -> None:
    assert server_address(root, environ) == address


def test_a_metadata_server_that_is_late_is_waited_for() -> None:
    """The server first answers 404, as it does for a pod that it does not know yet."""
    asked: list[str | None] = []

    class Late(Handler):
        def get(self) -> None:
            asked.append(self.headers["Metadata-Flavor"])
            self.answer(404 if len(asked) < 3 else 200)

    recorded = RecordedWaits()
    with serving(Late) as address:
        environ = {"HOME": "/nowhere", "GCE_METADATA_ROOT": address}
        wait_for_server("gs://bucket/run", environ, recorded.retry_budget(limit(60)))
    assert (asked, recorded.ends) == (["Google"] * 3, [True])
    assert recorded.waits[0][1] == "the metadata server gives no credentials yet"


def test_a_metadata_server_that_never_answers_ends_the_wait_without_an_error() -> None:
    recorded = RecordedWaits()
    wait_for_server("gs://bucket/run", {"HOME": "/nowhere"}, recorded.retry_budget(0), answers=lambda _: False)
    wait_for_server("gs://bucket/run", {"HOME": "/nowhere"}, recorded.retry_budget(0.2), answers=lambda _: False)
    assert recorded.ends == [False]
