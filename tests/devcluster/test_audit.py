"""Reading an audit log while the API server writes it."""

import json
from pathlib import Path
from typing import Any

from halcyon_devcluster.audit import AuditLog, parse


def line(verb: str = "create", name: str = "", stage: str = "ResponseComplete", **about: Any) -> str:
    entry = {
        "stage": stage,
        "verb": verb,
        "user": {"username": "system:serviceaccount:ns:operator"},
        "userAgent": "halcyon-operator/1 (pod-a)",
        "objectRef": {"resource": "jobsets", "apiGroup": "jobset.x-k8s.io", "namespace": "ns", "name": name, **about},
        "responseStatus": {"code": 201},
        "requestReceivedTimestamp": "2026-11-20T12:00:00.123456Z",
    }
    return json.dumps(entry) + "\n"


def test_a_log_line_is_parsed_into_a_request():
    request = parse(line("patch", "run", resource="trainingruns", subresource="status"))
    assert request is not None
    assert (request.verb, request.resource, request.name, request.code, request.write) == (
        "patch",
        "trainingruns/status",
        "run",
        201,
        True,
    )
    assert request.agent.endswith("(pod-a)")
    assert not parse(line("list")).write  # type: ignore[union-attr]
    assert parse(line(stage="ResponseStarted")) is None
    assert parse("{") is None


def test_a_request_denied_by_authorization_is_distinguished_from_others():
    def decided(decision: str) -> bool:
        request = parse(json.dumps(json.loads(line()) | {"annotations": {"authorization.k8s.io/decision": decision}}))
        return request is not None and request.denied

    assert decided("forbid")
    assert not decided("allow")
    assert parse(line()).denied is False  # type: ignore[union-attr]


def test_only_complete_new_lines_are_read_also_after_a_rotation(tmp_path: Path):
    path = tmp_path / "audit.log"
    path.write_text(line(name="before"))
    log = AuditLog(path)
    with path.open("a") as sink:
        sink.write(line(name="a") + line(name="b")[:20])
    assert [request.name for request in log.new()] == ["a"]
    with path.open("a") as sink:
        sink.write(line(name="b")[20:])
    assert [request.name for request in log.new()] == ["b"]
    path.rename(tmp_path / "old.log")
    path.write_text(line(name="c"))
    assert [request.name for request in log.new()] == ["c"]
    assert list(AuditLog(tmp_path / "none").new()) == []
