"""The operator sends credentials only to the stores that its owner lists, and shows users nothing of what a store
answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from halcyon_api.checkpoint_documents import encode_head
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.model.settings import endpoint_refusal, normal
from halcyon_operator.model.views import HeadFound, HeadReading, HeadUnreachable
from halcyon_operator.observe.checkpoints import Checkpoints
from halcyon_operator.observe.reports import parse_report
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import at, head, jobset, observed, pod, run
from tests.operator.simulation import SimulatedCluster
from tests.operator.test_defaults import TEAM, put, ready, short
from tests.web import Handler, serving

PAGE = "internal-page-7f3a"
"""Text that only the store has, and that must not appear anywhere else."""


class ObjectStore:
    """Records each request, and gives the answer that the test sets."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
        self.endpoint = ""

    def read(self, *listed: str) -> HeadReading:
        spec = CheckpointSpec(root="s3://bucket/run", endpoint=self.endpoint)
        return asyncio.run(Checkpoints(Metrics().head_reads, listed).read(spec))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"the-{name}")
    store = ObjectStore()

    class Answers(Handler):
        def get(self) -> None:
            store.seen.append(dict(self.headers))
            status, headers, body = store.answer
            self.answer(status, body, headers)

    with serving(Answers) as address:
        store.endpoint = f"http://{address}"
        yield store


@pytest.mark.parametrize("listed", [(), ("http://other:1",)])
def test_no_request_goes_to_an_endpoint_that_is_not_listed(store: ObjectStore, listed: tuple[str, ...]) -> None:
    reading = store.read(*listed)
    assert isinstance(reading, HeadUnreachable)
    assert "objectStore.s3.endpoints" in reading.reason
    assert store.seen == []
    store.read(store.endpoint)
    assert "the-AWS_ACCESS_KEY_ID" in store.seen[0]["authorization"]


@pytest.mark.parametrize(
    ("endpoint", "listed", "allowed"),
    [
        ("https://store.example", ["https://store.example"], True),
        ("https://store.example", ["https://store.example/"], True),
        ("https://Store.Example:443", ["https://store.example"], True),
        ("https://store.example", ["https://STORE.example:443"], True),
        ("http://store.example", ["https://store.example"], False),
        ("https://store.example", ["http://store.example"], False),
        ("http://store.example:80", ["http://store.example"], True),
        ("http://store.example:8080", ["http://store.example"], False),
        ("https://store.example.evil", ["https://store.example"], False),
        ("https://evil.store.example", ["https://store.example"], False),
        ("https://store.example:443:443", ["https://store.example"], False),
        ("http://[::1]:7070", ["http://[::1]:7070"], True),
        ("https://[", ["https://store.example"], False),
        ("https://store.example", [], False),
        ("https://storage.googleapis.com", [], False),
    ],
)
def test_an_endpoint_is_allowed_with_its_scheme_host_and_port(endpoint: str, listed: list[str], allowed: bool) -> None:
    refusal = endpoint_refusal(endpoint, listed)
    assert (refusal is None) == allowed
    assert refusal is None or (endpoint in refusal and "objectStore.s3.endpoints in the chart" in refusal)
    assert endpoint_refusal(None, listed) is None


@pytest.mark.parametrize(
    "text", ["", "store", "ftp://x", "https://a/b", "https://user@a", "https://a?b", "https://a:99999"]
)
def test_text_that_is_no_endpoint_is_not_normalized(text: str) -> None:
    assert normal(text) == text


def test_a_run_with_an_endpoint_that_is_not_listed_gets_no_jobset() -> None:
    cluster = SimulatedCluster(run(checkpoint={"root": "s3://bucket/demo", "endpoint": "http://anything:80"}))
    cluster.settle()
    assert cluster.api.created == []
    ready = next(condition for condition in cluster.status["conditions"] if condition["type"] == "Ready")
    assert (cluster.status["phase"], ready["reason"]) == ("Failed", "InvalidSpec")
    assert "http://anything:80" in ready["message"]
    assert "objectStore.s3.endpoints in the chart" in ready["message"]
    assert "\n" not in ready["message"]


def test_an_edit_to_an_unlisted_endpoint_starts_no_attempt() -> None:
    cluster = SimulatedCluster(run(checkpoint={"root": "s3://bucket/demo", "endpoint": "http://store:7070"}))
    cluster.settle()
    created = list(cluster.api.created)
    assert created
    cluster.edit(checkpoint={"root": "s3://bucket/demo", "endpoint": "http://anything:80"})
    cluster.settle()
    assert cluster.api.created == created


def test_a_run_with_an_unlisted_endpoint_from_its_defaults_gets_no_jobset() -> None:
    """They are merged into the spec before the run is validated."""
    cluster = SimulatedCluster(short())
    put(cluster, **TEAM | {"checkpoint__endpoint": "http://anything"})
    cluster.settle()
    assert cluster.api.created == []
    assert "http://anything" in ready(cluster)
    assert "objectStore.s3.endpoints in the chart" in ready(cluster)
    listed = SimulatedCluster(short())
    put(listed, **TEAM)
    listed.settle()
    assert listed.api.created


def test_a_running_attempt_with_an_unlisted_endpoint_continues() -> None:
    """As after an upgrade to a version that sends nothing to endpoints that are not listed."""
    view = observed(
        run(checkpoint={"root": "s3://bucket/demo", "endpoint": "http://anything"}), jobsets=[jobset()], pods=[pod()]
    )
    view = replace(
        view, run=replace(view.run, status=view.run.status.model_copy(update={"attempt": 1, "job_set_name": "demo-1"}))
    )
    decision = reconcile(view, at(10))
    assert (decision.create, decision.delete) == ((), ())
    assert decision.status is not None
    assert "goes on as it was" in str(decision.status.condition("Stalled"))


@pytest.mark.parametrize("status", [200, 206, 301, 307, 400, 401, 403, 404, 409, 412, 418, 500, 503])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, f"<html>{PAGE}</html>"),
        ({}, f"<Error><Code>{PAGE.replace('-', '_')}</Code><Message>{PAGE}</Message></Error>"),
        ({"Location": f"http://10.0.0.1/{PAGE}", "x-amz-request-id": PAGE, "ETag": PAGE, "Content-Range": PAGE}, PAGE),
        ({"Last-Modified": PAGE, "ETag": PAGE}, '{"sha256": "' + PAGE + '"}'),
    ],
)
def test_no_text_of_a_stores_answer_is_shown(
    store: ObjectStore, status: int, headers: dict[str, str], body: str
) -> None:
    store.answer = (status, headers, body.encode())
    reading = store.read(store.endpoint)
    shown = reading.reason if isinstance(reading, HeadUnreachable) else ""
    assert PAGE not in shown
    assert PAGE.replace("-", "_") not in shown
    assert len(shown) < 120


def test_only_the_fields_of_a_checkpoint_are_shown_from_head() -> None:
    cluster = SimulatedCluster(run())
    cluster.settle()
    strange = head(50, epoch=(1, 0)).head
    assert strange.newest is not None
    step = strange.newest.model_copy(update={"path": f"steps/<{PAGE}>"})
    cluster.head = HeadFound(strange.model_copy(update={"committed": (step,)}))
    cluster.settle()
    assert cluster.status["checkpoint"]["step"] == 50
    assert PAGE not in str(cluster.status)
    other = SimulatedCluster(run())
    other.head = HeadFound(head(50, owner=(f"<{PAGE}>", "demo")).head)
    other.settle()
    assert other.status["phase"] == "Failed"
    assert PAGE not in str(other.status)
    assert encode_head(other.head.head)


def test_an_answer_that_is_no_report_is_not_shown() -> None:
    for body in (f'{{"{PAGE}": 1}}', PAGE, f'{{"progress": {{"{PAGE}": "{PAGE}"}}}}'):
        assert PAGE not in parse_report(body.encode(), "demo", (1, 0)).problem
