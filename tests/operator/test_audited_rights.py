"""The comparison of an audit log with the chart's rights.

tests/cluster/test_used_rights.py applies it to the log of the cluster suite.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from halcyon_devcluster.audit import Request
from tests.cluster.rights import Findings, Right, granted, judge

OPERATOR = "system:serviceaccount:ns:halcyon"
RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": ["halcyon.dev"], "resources": ["trainingruns", "trainingruns/status"], "verbs": ["patch"]},
]
LIST, WATCH = Right("", "pods", "list"), Right("", "pods", "watch")
RUN, STATUS = Right("halcyon.dev", "trainingruns", "patch"), Right("halcyon.dev", "trainingruns/status", "patch")


def asked(
    right: Right,
    *,
    user: str = OPERATOR,
    namespace: str = "team",
    name: str = "",
    denied: bool = False,
    code: int = 200,
) -> Request:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    return Request(
        right.verb, user, "agent", right.group, right.resource, namespace, name, 403 if denied else code, at, denied
    )


def found(*log: Request, **more: dict[Right, str]) -> Findings:
    return judge(log, OPERATOR.__eq__, granted(RULES), **({"not_requested": {}} | more))


def test_rules_are_split_into_single_rights() -> None:
    assert granted(RULES) == {LIST, WATCH, RUN, STATUS}


def test_an_unused_right_is_reported_unless_it_has_a_reason() -> None:
    findings = found(asked(LIST), asked(WATCH), asked(RUN, user="somebody"), not_requested={STATUS: "because"})
    assert findings.unused == {RUN}, "requests of other users do not count"
    assert (findings.denied, findings.needless) == ((), frozenset())
    assert findings.used == {LIST: 1, WATCH: 1}


def test_a_needless_exception_is_reported() -> None:
    assert found(asked(STATUS), not_requested={STATUS: "because"}).needless == {STATUS}
    secrets = Right("", "secrets", "get")
    assert found(not_requested={secrets: "because"}).needless == {secrets}


def test_a_denied_request_is_reported_and_uses_no_right() -> None:
    findings = found(asked(LIST, denied=True))
    assert [(request.namespace, request.resource) for request in findings.denied] == [("team", "pods")]
    assert LIST in findings.unused


def test_a_refusal_for_another_reason_is_no_denial() -> None:
    assert found(asked(LIST, code=403)).denied == (), "an exceeded quota or a namespace in deletion answers 403 too"


def of_binding(verb: str, *, name: str = "halcyon", namespace: str = "team") -> Request:
    kind = "rolebindings" if namespace else "clusterrolebindings"
    return asked(Right("rbac.authorization.k8s.io", kind, verb), user="admin", namespace=namespace, name=name)


def test_a_denial_after_the_rights_were_revoked_is_ignored() -> None:
    denied = asked(LIST, denied=True)
    assert len(found(denied, of_binding("delete"), denied).denied) == 1
    assert len(found(of_binding("delete", namespace="other"), denied).denied) == 1
    assert found(of_binding("deletecollection", name=""), denied).denied == (), (
        "the binding was deleted with its namespace"
    )
    assert found(of_binding("delete", namespace=""), denied).denied == (), "the operator serves the whole cluster"


@pytest.mark.parametrize("gives", ["create", "patch"], ids=["create", "as Helm does"])
def test_rights_that_were_granted_again_count(gives: str) -> None:
    denied = asked(LIST, denied=True)
    assert len(found(of_binding("delete"), of_binding(gives), denied).denied) == 1


def test_reading_a_binding_revokes_no_right() -> None:
    assert len(found(of_binding("get"), asked(LIST, denied=True)).denied) == 1


def test_the_deletion_of_one_operators_binding_excuses_no_other_operator() -> None:
    denied = asked(LIST, denied=True, namespace="")
    assert len(found(of_binding("delete", namespace="", name="halcyon-another-nodes"), denied).denied) == 1
    assert found(of_binding("delete", namespace="", name="halcyon-ns-nodes"), denied).denied == ()


def test_a_denial_of_a_right_that_was_allowed_before_is_excused() -> None:
    denied = asked(LIST, denied=True)
    assert found(asked(LIST), denied).denied == ()
    assert len(found(asked(LIST, namespace="other"), asked(WATCH), denied).denied) == 1
    assert len(found(asked(LIST), of_binding("patch"), denied).denied) == 1, "after an upgrade the rights may differ"


def test_a_denial_that_is_logged_too_early_is_excused() -> None:
    """A request is logged only when it is answered."""
    denied = asked(LIST, denied=True)
    later = replace(denied, at=denied.at + timedelta(seconds=1))
    assert found(later, of_binding("delete")).denied == ()


def test_a_right_that_the_chart_does_not_grant_is_reported() -> None:
    (request,) = found(asked(Right("", "secrets", "get"))).ungranted
    assert request.resource == "secrets"
    assert (str(STATUS), str(LIST)) == ("patch trainingruns/status.halcyon.dev", "list pods")
