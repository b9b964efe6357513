"""Reading an audit log while the API server writes it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halcyon_devcluster.audit import AuditLog, parse, policy, requests_since


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


def test_a_watch_is_answered_when_it_begins_and_counts_once():
    assert parse(line("watch", stage="ResponseStarted")) is not None
    assert parse(line("watch", stage="ResponseComplete")) is None


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


def test_the_clusters_own_components_are_left_out():
    levels = [(rule["level"], bool(rule.get("users") or rule.get("userGroups"))) for rule in policy()["rules"]]
    assert levels[1] == ("None", True)
    assert levels[-1] == ("Metadata", False)


def test_requests_from_a_time_on_are_read_from_both_files(tmp_path: Path):
    path = tmp_path / "audit.log"

    def at(second: int, name: str) -> str:
        return line(name=name).replace("12:00:00", f"12:00:{second:02}")

    (tmp_path / "audit-2026-11-20T12-00-03.000.log").write_text(at(1, "early") + at(2, "aside"))
    path.write_text(at(3, "present") + at(4, "elsewhere") + '{"kind"')
    since = datetime(2026, 11, 20, 12, 0, 2, tzinfo=UTC)
    assert [request.name for request in requests_since(path, since, lambda text: "elsewhere" not in text)] == [
        "aside",
        "present",
    ]
